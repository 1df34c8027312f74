"""Which recorded snapshots a node should keep, which it lacks, whose copies it counts: pure, of what it sees."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from node.session.placement import holders
from node.storage import Label, Pin, Retention, expired

REMEMBERED = 100_000  # recorded snapshots, the newest: what is looked after


@dataclass(frozen=True, slots=True)
class Named:
    """A snapshot that the ledger names: whose it is, of which round."""

    member: int
    round: int
    cid: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: in which session of how many rounds and copies, its own index, what its operator keeps."""

    session_id: int
    own: int
    replicas: int
    rounds: int
    policy: Retention | None = None

    def label(self, named: Named) -> Label:
        """As the list of pins has it."""
        return Label(self.session_id, named.member, named.round)

    def is_replica(self, pin: Pin) -> bool:
        """Whether a pin is of another member of this session."""
        return pin.label is not None and pin.label.session == self.session_id and pin.label.member != self.own

    def is_own(self, pin: Pin) -> bool:
        """Whether a pin is this member's snapshot of a round."""
        return pin.label is not None and pin.label.session == self.session_id and pin.label.member == self.own


@dataclass(frozen=True, slots=True)
class Plan:
    """What a node has to do for the snapshots of its session."""

    missing: tuple[Named, ...] = ()  # which it should keep and lacks: its own first, then the newest
    led: Mapping[Named, tuple[int, ...]] = field(default_factory=dict)  # it is first in line for these; the others
    surplus: tuple[Pin, ...] = ()  # replicas that others are to keep now, oldest first


@dataclass
class Registry:
    """The recorded snapshots, and who keeps them while the same members are there."""

    place: Place
    named: "OrderedDict[tuple[int, int], Named]" = field(default_factory=OrderedDict)
    _present: frozenset[int] = frozenset()
    _holders: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def add(self, found: Iterable[Named]) -> None:
        """Takes in what was recorded, in the chain's order; the first word about a round of the session counts."""
        for named in found:
            if named.round <= self.place.rounds:
                self.named.setdefault((named.member, named.round), named)
        while len(self.named) > REMEMBERED:
            key, _ = self.named.popitem(last=False)
            self._holders.pop(key, None)

    def plan(self, pins: Sequence[Pin], present: frozenset[int]) -> Plan:
        """What to do, given what is kept and who is there (this node counted)."""
        if present != self._present:
            self._present, self._holders = present, {}
        place = self.place
        mine = [named for named in self.named.values() if place.own in self._of(named)]
        kept = self._after_retention(mine, pins)
        held = {pin.cid for pin in pins}
        missing = [named for named in kept if named.cid not in held]
        missing.sort(key=lambda named: (named.member != place.own, -named.round, named.member))
        led = {named: self._of(named)[1:] for named in kept if self._of(named)[0] == place.own}
        wanted = {named.cid for named in mine}
        surplus = tuple(pin for pin in pins if place.is_replica(pin) and pin.cid not in wanted)
        return Plan(tuple(missing), led, surplus)

    def _of(self, named: Named) -> tuple[int, ...]:
        key = named.member, named.round
        if key not in self._holders:
            place = self.place
            self._holders[key] = holders(place.session_id, *key, self._present, place.replicas)
        return self._holders[key]

    def _after_retention(self, mine: Sequence[Named], pins: Sequence[Pin]) -> Sequence[Named]:
        """Without what the operator's policy would release as soon as it were here."""
        if self.place.policy is None:
            return mine
        here = {pin.cid for pin in pins}
        wanted = [Pin(named.cid, self.place.label(named), 0, 0.0) for named in mine if named.cid not in here]
        released = {pin.cid for pin in expired([*pins, *wanted], self.place.policy)}
        return [named for named in mine if named.cid not in released]
