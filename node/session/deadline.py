"""How long to wait for the others: from how long they took before, never a fixed time; knows no clock."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

SPREAD = 4.0  # median absolute deviations beyond the median
FLOOR_S = 2.0
HISTORY = 32


@dataclass
class AdaptiveDeadline:
    """Median of recent waits + 4 × their median absolute deviation + 2 s, at most the session's bound."""

    bound_s: float
    spread: float = SPREAD
    floor_s: float = FLOOR_S
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def observe(self, wait_s: float) -> None:
        """Takes in how long one peer's update let wait, in seconds."""
        self._waits.append(wait_s)

    def seconds(self) -> float:
        """How long to wait now; the bound until something was observed."""
        if not self._waits:
            return self.bound_s
        middle = median(self._waits)
        deviation = median(abs(wait - middle) for wait in self._waits)
        return min(self.bound_s, middle + self.spread * deviation + self.floor_s)
