"""What members recorded of their privacy budgets, checked. Knows no accountant: how much noise was added, nobody sees.

One object per audit; the steps of one member come in ascending order of their rounds.
"""

import math
from dataclasses import dataclass, field

from node.audit.replay import Fault, Step

MILLIONTHS = 1_000_000  # the ledger's unit, rounded up


@dataclass
class BudgetCheck:
    """Every member that trains says what it has spent: never more than the budget, never less than before."""

    epsilon: float  # the session's budget
    coordinator: int | None = None  # does not train
    _before: dict[int, float] = field(default_factory=dict)

    def check(self, step: Step) -> Fault | None:
        """What is wrong with the epsilon of a step, if anything."""
        said, before = step.mix.epsilon, self._before.get(step.member, 0.0)
        if said is None:
            return None if step.member == self.coordinator else _fault(step, "the epsilon spent so far", "none")
        self._before[step.member] = max(said, before)
        if said > math.ceil(round(self.epsilon * MILLIONTHS, 4)) / MILLIONTHS:
            return _fault(step, f"an epsilon of at most {self.epsilon:g}", f"{said:g}")
        if said < before:
            return _fault(step, f"an epsilon of at least {before:g}, as in an earlier round", f"{said:g}")
        return None


def _fault(step: Step, expected: str, found: str) -> Fault:
    return Fault(step.member, step.round, "privacy", expected, found)
