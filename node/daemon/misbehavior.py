"""A member that misbehaves on purpose, in a session that is an experiment; the attacks are the simulation's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from node.simulation.attacks import Scene, forge


@dataclass
class Misbehavior:
    """Forges what the member sends. It knows the updates that it received, not those of the round in progress."""

    attack: str
    initial: Tensor  # the session's initial parameters (size,)
    honest: Tensor | None = None  # (h, size), as last received
    before: Tensor | None = None  # one honest update of the round before that
    first: Tensor | None = None  # what it trained first

    def see(self, received: Tensor) -> None:
        """Takes in the updates of a round (h, size), its own not among them."""
        if len(received):
            self.before = received[0] if self.honest is None else self.honest[0]
            self.honest = received

    def __call__(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """What is sent in the place of the parameters that were trained."""
        self.first = own if self.first is None else self.first
        honest = own[None] if self.honest is None else self.honest
        scene = Scene(
            own=own,
            honest=honest,
            attackers=1,
            initial=self.initial,
            first=self.first,
            previous=honest[0] if self.before is None else self.before,
            leader=own,
            generator=generator,
        )
        return forge(self.attack, scene)
