"""Who is asked for how much: a worker's share of local steps follows its measured speed. Knows no clock and no network.

A round trip is download + training + upload. Every worker gets the steps that fit into the median worker's full round
trip, so nobody is waited for and the fast ones lose nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from node.session.notes import Work

NEWEST = 0.5  # weight of the newest measurement in the running means


@dataclass(frozen=True, slots=True)
class Timing:
    """One worker's round trip, in seconds, and what it did in that time."""

    member: int
    round: int  # of the update
    steps: int
    examples: int
    download_s: float
    training_s: float
    upload_s: float
    round_trip_s: float
    full: int = 0  # the steps of a whole round by its own data
    next_steps: int = 0  # its share of the next round: what it will be asked for; 0: a whole round


@dataclass
class _Pace:
    steps_per_s: float
    overhead_s: float  # all of the round trip that is not training
    full: int


@dataclass
class Balance:
    """Measures and shares out. Switched off, it asks everybody for a full round."""

    enabled: bool = True
    _paces: dict[int, _Pace] = field(default_factory=dict)

    def observe(self, timing: Timing, work: Work) -> None:
        """Takes in what a worker did, and how long it took."""
        rate = timing.steps / max(timing.training_s, 1e-6)
        overhead = max(timing.round_trip_s - timing.training_s, timing.download_s + timing.upload_s, 0.0)
        known = self._paces.get(timing.member)
        if known is None:
            self._paces[timing.member] = _Pace(rate, overhead, work.full)
            return
        known.steps_per_s += NEWEST * (rate - known.steps_per_s)
        known.overhead_s += NEWEST * (overhead - known.overhead_s)
        known.full = work.full

    def steps(self, members: Iterable[int]) -> tuple[int, ...]:
        """The steps to ask of each of `members` (ascending from 0); 0, a full round, for one never measured."""
        if not self.enabled or not self._paces:
            return ()
        trip_s = median(pace.overhead_s + pace.full / pace.steps_per_s for pace in self._paces.values())
        return tuple(self._share(self._paces.get(member), trip_s) for member in members)

    @staticmethod
    def _share(pace: _Pace | None, trip_s: float) -> int:
        if pace is None:
            return 0
        return min(pace.full, max(1, int((trip_s - pace.overhead_s) * pace.steps_per_s)))
