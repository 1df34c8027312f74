"""How far from the model an update may lie where the coordinator's optimizer adds up squares. Knows no peers.

A square beyond float32 would be infinite in the second moment for good: its number would never move again, and no
auditor could take the moments that the coordinator snapshots.
"""

import math

import torch

from node.causes import Cause
from node.config import Aggregation
from node.errors import UpdateError
from node.learning.aggregation import ADAPTIVE, OPTIMIZERS
from node.learning.vectors import Vector, parts

SQUARING = ADAPTIVE | {"adam"}


def farthest(rounds: int) -> float:
    """The distance whose square all rounds of a session can add up, and twice that: the model may move meanwhile."""
    return math.sqrt(torch.finfo(torch.float32).max / (2 * rounds))


def require_within_reach(rule: Aggregation, model: Vector, update: Vector, rounds: int) -> None:
    """UpdateError for an update, of a session of so many rounds, with a number whose squares could become infinite."""
    if rule.rule not in SQUARING:
        return
    limit = farthest(rounds)
    for part in parts(len(update)):
        numbers = update[part]
        distances = (numbers if rule.rule in OPTIMIZERS else numbers - model[part]).abs()
        worst = int(distances.argmax())
        if not float(distances[worst]) <= limit:
            raise UpdateError(
                f"update holds {float(numbers[worst]):g} (number {part.start + worst}), {float(distances[worst]):.3g} "
                f"from the model: {rule.rule} adds up squares, and can hold those of at most {limit:.3g}",
                Cause.UPDATE_OUT_OF_RANGE,
            )
