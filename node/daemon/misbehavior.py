"""A member that misbehaves on purpose, in a session that is an experiment; the attacks are the simulation's.

Its training data were poisoned before (node.simulation.attacks.poison). Knows no network and no other attacker.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.simulation.attacks import Scene, forge

Row = npt.NDArray[np.float64]


@dataclass
class Misbehavior:
    """Forges what the member sends. It knows the updates that it received, not those of the round in progress."""

    attack: str
    initial: Tensor  # the session's initial parameters (size,)
    received: Tensor | None = None  # (h, size), in the round before
    first: Tensor | None = None  # what it trained first
    trained: Tensor | None = None  # and last

    def __call__(self, start: Tensor, own: Tensor, generator: torch.Generator) -> Tensor:
        """What is sent in the place of the parameters that were trained from `start`."""
        self.trained = own
        self.first = own if self.first is None else self.first
        honest = own[None] if self.received is None else self.received
        scene = Scene(
            start=start,
            own=own,
            honest=honest,
            attackers=1,
            initial=self.initial,
            first=self.first,
            previous=honest[0],
            leader=own,
            generator=generator,
        )
        return forge(self.attack, scene)

    def judged(self, stacked: Tensor, own: int) -> Tensor:
        """The round's updates (k, size) as it judges them itself: with what it trained, not what it sent."""
        others = [i for i in range(len(stacked)) if i != own]
        if others:
            self.received = stacked[others]
        if self.trained is None:  # a restart between training and mixing
            return stacked
        judged = stacked.clone()
        judged[own] = self.trained
        return judged


def without_own(row: Row, own: int) -> Row:
    """The row (k,) of a member that leaves its own update out, as an attacker does; unchanged if nobody else came.

    It goes on from the honest members' model, as in the simulation, and so does not drown in its own forgeries.
    """
    others = np.arange(len(row)) != own
    if not others.any():
        return row
    kept = np.where(others, row, 0.0)
    return kept if kept.sum() > 0 else others.astype(np.float64)
