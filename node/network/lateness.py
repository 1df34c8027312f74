"""How late the event loop is: the one number that says whether training stalls the network, or the network itself.

Knows nothing of either.
"""

import logging
from collections import deque
from dataclasses import dataclass

import trio

logger = logging.getLogger(__name__)

INTERVAL = 0.02  # seconds between samples
REMEMBERED = 3000  # samples: the last minute
TOO_LATE = 0.5  # seconds; worth a line in the log


@dataclass(frozen=True)
class Lateness:
    """Seconds by which tasks were resumed too late, over the last minute."""

    median: float
    p99: float
    worst: float


class LatenessMeter:
    """Samples the event loop that `run` runs in."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=REMEMBERED)

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            late = trio.current_time() - due
            self._samples.append(late)
            if late > TOO_LATE:
                logger.warning(
                    "the event loop was %.1f s late: something blocks it, or the machine is overloaded", late
                )

    def report(self) -> Lateness:
        """What was measured so far; zeros before the first sample."""
        ordered = sorted(self._samples) or [0.0]
        return Lateness(ordered[len(ordered) // 2], ordered[(len(ordered) * 99) // 100], ordered[-1])
