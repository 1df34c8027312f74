"""Who is asked for how much: a worker's share of local steps follows its measured speed. Knows no clock and no network.

A round trip is download + training + upload. Every worker gets the steps that fit into the median worker's full round
trip, so nobody is waited for and the fast ones lose nothing. One whose speed is not known (new, away for some rounds,
or after a restart of the coordinator) is asked for two steps, which measure it: nobody waits for a slow one even once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from node.session.bounds import cut_to_others

NEWEST = 0.5  # weight of the newest measurement in the running means
FIRST_STEPS = 2  # of a worker whose speed is not known: of one 20 times slower as long as 40 of the others'
KNOWN_ROUNDS = 4  # for which a measurement holds: who was away for longer is measured anew


@dataclass(frozen=True, slots=True)
class Timing:
    """One worker's round trip, in seconds, and what it did in that time."""

    member: int
    round: int  # of the update
    steps: int
    examples: int  # that it counts for
    download_s: float
    training_s: float
    upload_s: float
    round_trip_s: float
    full: int = 0  # the steps of a whole round by its own data
    next_steps: int = 0  # its share of the next round: what it will be asked for; 0: a whole round

    @property
    def overhead_s(self) -> float:
        """All of the round trip that is not training."""
        return max(self.round_trip_s - self.training_s, self.download_s + self.upload_s, 0.0)


@dataclass
class _Pace:
    steps_per_s: float
    overhead_s: float
    full: int
    sure: bool  # `full` is not the worker's word
    round: int  # of the newest measurement
    brief: bool  # it comes from a few steps alone


@dataclass
class Balance:
    """Measures and shares out. Switched off, it asks everybody for a full round."""

    enabled: bool = True
    _paces: dict[int, _Pace] = field(default_factory=dict)

    @property
    def first_steps(self) -> int:
        """The steps to ask of a worker whose speed is not known; 0: a full round."""
        return FIRST_STEPS if self.enabled else 0

    def observe(self, timing: Timing, sure: bool = False) -> float:
        """Takes in what a worker did, and how long it took; `sure`: its `full` is not only its own word.

        Returns the seconds of round trip that a round of more than the first few steps is to be expected to take.
        """
        rate = timing.steps / max(timing.training_s, 1e-6)
        known = self._known(timing.member, timing.round)
        brief = self.enabled and known is None and timing.steps <= FIRST_STEPS < timing.full
        weight = 1.0 if known is None or known.brief else NEWEST
        before = (rate, timing.overhead_s) if known is None else (known.steps_per_s, known.overhead_s)
        self._paces[timing.member] = _Pace(
            before[0] + weight * (rate - before[0]),
            before[1] + weight * (timing.overhead_s - before[1]),
            timing.full,
            sure,
            timing.round if known is None else max(timing.round, known.round),
            brief,
        )
        return timing.overhead_s + self._full(timing.round)[timing.member] / rate if brief else timing.round_trip_s

    def steps(self, members: Iterable[int], round: int) -> tuple[int, ...]:
        """The steps of a round to ask of each of `members` (ascending from 0); none if everybody is asked alike."""
        full = self._full(round)
        if not self.enabled or not full:
            return ()
        trip_s = median(
            self._paces[member].overhead_s + full[member] / self._paces[member].steps_per_s for member in full
        )
        return tuple(self._share(member, full.get(member), trip_s) for member in members)

    def _known(self, member: int, round: int) -> _Pace | None:
        pace = self._paces.get(member)
        return None if pace is None or round - pace.round > KNOWN_ROUNDS else pace

    def _full(self, round: int) -> dict[int, int]:
        """The steps of a full round of each member whose speed is known: by its word, at most what is believed."""
        paces = {member: pace for member in self._paces if (pace := self._known(member, round)) is not None}
        believed = cut_to_others({member: pace.full for member, pace in paces.items()})
        return {member: pace.full if pace.sure else believed[member] for member, pace in paces.items()}

    def _share(self, member: int, full: int | None, trip_s: float) -> int:
        if full is None:
            return FIRST_STEPS
        pace = self._paces[member]
        return min(full, max(1, int((trip_s - pace.overhead_s) * pace.steps_per_s)))
