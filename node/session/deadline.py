"""How long to wait for the others: from how long they took before, never a fixed time; knows no clock."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

SPREAD = 4.0  # median absolute deviations beyond the median
FLOOR_S = 2.0
HISTORY = 32


@dataclass
class AdaptiveDeadline:
    """Median of recent waits + 4 × their median absolute deviation + 2 s, at most the session's bound.

    Waits that ended without anybody are not among those that were seen: after each of them it is twice as long.
    """

    bound_s: float
    spread: float = SPREAD
    floor_s: float = FLOOR_S
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _patience: float = 1.0  # times the above, after waits that were too short

    def observe(self, wait_s: float) -> None:
        """Takes in how long one peer's update let wait, in seconds."""
        self._waits.append(wait_s)

    def missed(self) -> None:
        """Takes in that nobody came within the deadline: the next one is twice as long."""
        if self.seconds() < self.bound_s:
            self._patience *= 2.0

    def met(self) -> None:
        """Takes in that somebody came in time: half as long again, until it is what it was."""
        self._patience = max(1.0, self._patience / 2.0)

    def seconds(self) -> float:
        """How long to wait now; the bound until something was observed."""
        if not self._waits:
            return self.bound_s
        middle = median(self._waits)
        deviation = median(abs(wait - middle) for wait in self._waits)
        return min(self.bound_s, self._patience * (middle + self.spread * deviation + self.floor_s))
