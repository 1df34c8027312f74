"""How the learning rate falls over a session: functions of (round, rounds) to a factor of the task's learning rate."""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def constant(_round: int, _rounds: int) -> float:
    """The task's learning rate in every round."""
    return 1.0


def cosine(round: int, rounds: int) -> float:
    """From 1 in the first round along half a cosine towards 0 after the last one; whatever the number of rounds.

    Large steps early, small ones late: members that mix end closer to one another and to the optimum than with any
    constant rate. Source: Loshchilov and Hutter, SGDR (arXiv:1608.03983), without restarts: the closed form of torch's
    CosineAnnealingLR.
    """
    passed = min(1.0, max(0, round - 1) / max(1, rounds))
    return 0.5 * (1.0 + math.cos(math.pi * passed))
