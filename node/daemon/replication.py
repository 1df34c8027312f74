"""Copies of recorded snapshots with several members, so that the loss of a machine loses none.

Every few seconds a node reads which snapshots the ledger names, keeps those that fall to it (`session.placement`), and
asks the others whether they have copies of those that it is first in line for. A member that has been away for long
counts as lost: the next in line take over. One snapshot is fetched at a time, at a bounded rate, in a task of its own:
no round waits for it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import trio

from ledger import LedgerError, RecordedMix
from node.backoff import pause_after
from node.daemon.presence import Presence
from node.daemon.replica_count import CopyCount
from node.daemon.replica_plan import Named, Plan, Registry
from node.daemon.replica_room import ReplicaRoom
from node.errors import ContentMissing, StorageError
from node.storage import Copier, Pin, Snapshots, directory_cid

log = logging.getLogger(__name__)
LOOK_S, HURRY_S = 3.0, 0.3  # between looks; the latter when the node is about to leave
FETCH_S = 60.0  # for one replica; what came stays, so the next try goes on
TURN_S = 15.0  # of fetching between two looks
RATE = 8 << 20  # bytes a second, on average
FIRST_RETRY_S, LAST_RETRY_S = 3.0, 600.0
GIVEN_UP = 3  # tries after which a node that leaves waits no longer
CHECK_S, CHECK_AGAIN_S = 3600.0, 60.0  # between two readings of every block that is kept; while some are damaged


@dataclass(frozen=True, slots=True)
class Standing:
    """What `status` shows of snapshots; those of the session only, but for `other` (pinned by hand). Sizes in bytes."""

    copies: int  # that the session wants of each, the owner's counted
    own: int = 0
    own_bytes: int = 0
    replicas: int = 0  # of other members' snapshots
    replica_bytes: int = 0
    other: int = 0
    other_bytes: int = 0
    missing: int = 0  # this node should keep them and does not
    under_replicated: int = 0  # this node is first in line for them, and fewer copies are known than there should be
    damaged: int = 0
    limit: int | None = None  # of the disk
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts that replication works with."""

    read: Callable[[], list[RecordedMix]]  # the ledger, in a thread
    snapshots: Snapshots
    copier: Copier
    room: ReplicaRoom
    presence: Presence
    count: CopyCount
    largest: int  # bytes that a snapshot of the session may have


@dataclass
class Replication:
    """A node's share of keeping the session's snapshots; `run` does it, `standing` says how it is."""

    tools: Tools
    registry: Registry
    standing: Standing
    plan: Plan = field(default_factory=Plan)
    reachable: Mapping[int, str] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)  # by member, the last round whose mix is recorded
    looks: int = 0  # at a ledger that answered
    hurry: bool = False
    _tries: dict[str, tuple[int, float]] = field(default_factory=dict)  # by CID: how often, and when again
    _spent: dict[int, float] = field(default_factory=dict)  # seconds of fetching, by owner of whom something is missing
    _pins: Sequence[Pin] = ()
    _largest: int = 0  # bytes of a snapshot of the session, of those that are here
    _damaged: tuple[Pin, ...] = ()
    _checked_at: float = float("-inf")
    _silent: bool = False
    _wake: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Looks and repairs, for ever."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                self.standing = replace(self.standing, last_error=str(error))
                log.info("snapshots are looked after later: %s", error)
            self._wake = trio.Event()
            with trio.move_on_after(HURRY_S if self.hurry else LOOK_S):
                await self._wake.wait()

    async def look(self) -> None:
        """Takes in what is recorded, counts copies, fetches what is missing. Raises StorageError."""
        await self._read_ledger()
        self.reachable = self.tools.presence.look(trio.current_time())
        await self._mend()
        await self._make_plan()
        if self.plan.missing and self.reachable:
            await self._fetch_some(self.plan.missing)
            await self._make_plan()
        await self.tools.count.ask(self.plan.led, self.reachable, self.hurry)
        self.standing = self._stand()
        await self.tools.room.tidy()

    async def _read_ledger(self) -> None:
        """While the chain is out of reach, what was known is looked after."""
        try:
            found = await trio.to_thread.run_sync(self.tools.read, abandon_on_cancel=True)  # type: ignore[call-arg]
        except LedgerError as error:
            if not self._silent:
                log.info("which snapshots are recorded is asked later: %s", error)
            self._silent = True
            return
        self._silent = False
        for mix in found:
            self.newest[mix.member] = max(mix.round, self.newest.get(mix.member, 0))
        self.registry.add(Named(mix.member, mix.round, directory_cid(mix.snapshot)) for mix in found if mix.snapshot)
        self.looks += 1

    async def _make_plan(self) -> None:
        self._pins = await self.tools.snapshots.pins()
        present = self.tools.presence.present(trio.current_time())
        self.plan = await trio.to_thread.run_sync(self.registry.plan, self._pins, present)
        self.tools.room.surplus = frozenset(pin.cid for pin in self.plan.surplus)
        missing = {named.cid for named in self.plan.missing}
        self._tries = {cid: tries for cid, tries in self._tries.items() if cid in missing}
        owners = {named.member for named in self.plan.missing}
        self._spent = {member: seconds for member, seconds in self._spent.items() if member in owners}
        self.standing = self._stand()

    # Fetching

    async def _fetch_some(self, missing: Sequence[Named]) -> None:
        """As many as the time of a turn allows, one after the other; whoever took the least time so far goes first.

        In the plan's order alone, who names what nobody has, or gives it slowly, would leave no time for the others.
        """
        started = trio.current_time()
        for named in sorted(missing, key=lambda one: self._spent.get(one.member, 0.0)):
            now = trio.current_time()
            if now - started > TURN_S:
                return
            if now < self._tries.get(named.cid, (0, -1.0))[1]:
                continue
            if not await self.tools.room.admits(self._expected_size()):
                self._failed(
                    named, "there is no room for it: raise --snapshot-disk, or keep fewer with --keep-snapshots"
                )
                return
            if await self._fetch(named) and not self.hurry:
                await trio.sleep(self._expected_size() / RATE)

    async def _fetch(self, named: Named) -> bool:
        """Whether a snapshot is here now."""
        kept, began = False, trio.current_time()
        try:
            with self.tools.room.fetching(FETCH_S) as scope:
                await self.tools.copier.keep(named.cid, self.registry.place.label(named))
                kept = True
        except StorageError as error:
            if not isinstance(error, ContentMissing):  # of one that is missing, what came stays for the next try
                self.tools.room.collect_later()
            self._failed(named, str(error))
            return False
        finally:
            self._spent[named.member] = self._spent.get(named.member, 0.0) + trio.current_time() - began
        if not kept:
            late = trio.current_time() >= scope.deadline
            self._failed(named, f"it took over {FETCH_S:g} s" if late else "own snapshots went first")
        return kept

    def _failed(self, named: Named, why: str) -> None:
        tries = 1 + self._tries.get(named.cid, (0, 0.0))[0]
        pause = pause_after(tries, FIRST_RETRY_S, LAST_RETRY_S)
        self._tries[named.cid] = tries, trio.current_time() + pause
        what = f"the snapshot of member {named.member}, round {named.round} is not kept here: {why}"
        self.standing = replace(self.standing, last_error=what)
        log.info("%s; again in %g s", what, pause)

    async def _mend(self) -> None:
        """Reads every block now and then, and fetches again what was damaged."""
        if trio.current_time() - self._checked_at < (CHECK_AGAIN_S if self._damaged else CHECK_S):
            return
        self._damaged = tuple([pin for pin in await self.tools.snapshots.damaged() if not await self._mended(pin)])
        self._checked_at = trio.current_time()

    async def _mended(self, pin: Pin) -> bool:
        if pin.label is None:  # made by hand, by somebody who may want to know
            log.warning("snapshot %s is damaged on disk: `fl-node snapshot pin` it while a peer has it", pin.cid)
            return False
        try:
            with self.tools.room.fetching(FETCH_S):
                await self.tools.copier.keep(pin.cid, pin.label)
                log.warning("snapshot %s was damaged on disk, and is whole again", pin.cid)
                return True
        except StorageError as error:
            log.warning("snapshot %s is damaged on disk, and can't be mended now: %s", pin.cid, error)
        return False

    # Leaving

    async def settle(self, seconds: float, last_round: int | None) -> bool:
        """Waits until this node's snapshots have their copies and it has those that fall to it; whether they have.

        With `last_round`, also until the members that are connected have recorded theirs.
        """
        self.hurry, at, began, settled = True, self.looks, trio.current_time(), False
        self._wake.set()
        with trio.move_on_after(seconds):
            while not self._silent and not settled:
                await trio.sleep(HURRY_S / 3)
                settled = self.looks > at + 1 and self._is_settled(last_round)
        standing, took = self.standing, trio.current_time() - began
        wrong = f"{standing.missing} missing, {standing.under_replicated} with too few copies"
        log.info("snapshots %s after %.1f s: %s", "settled" if settled else "left as they are", took, wrong)
        return settled

    def _is_settled(self, last_round: int | None) -> bool:
        own, count = self.registry.place.own, self.tools.count
        if last_round is not None and any(self.newest.get(member, 0) < last_round for member in self.reachable):
            return False
        if self.reachable and any(self._tries.get(one.cid, (0, 0.0))[0] < GIVEN_UP for one in self.plan.missing):
            return False
        return all(
            count.has(named.cid, member)
            for named, others in self.plan.led.items()
            for member in others
            if named.member == own and member in self.reachable
        )

    # What it looks like

    def _expected_size(self) -> int:
        """Of a snapshot that is not here yet: as the largest that is."""
        return self._largest or self.tools.largest

    def _stand(self) -> Standing:
        place, count, pins = self.registry.place, self.tools.count, self._pins
        own = [pin.size for pin in pins if place.is_own(pin)]
        replicas = [pin.size for pin in pins if place.is_replica(pin)]
        self._largest = max((*own, *replicas), default=0)
        total, here = sum(pin.size for pin in pins), {pin.cid for pin in pins}
        copies = ((named.cid in here) + count.others(named, others) for named, others in self.plan.led.items())
        return Standing(
            copies=place.replicas,
            own=len(own),
            own_bytes=sum(own),
            replicas=len(replicas),
            replica_bytes=sum(replicas),
            other=len(pins) - len(own) - len(replicas),
            other_bytes=total - sum(own) - sum(replicas),
            missing=len(self.plan.missing),
            under_replicated=sum(each < place.replicas for each in copies),
            damaged=len(self._damaged),
            limit=self.tools.room.disk,
            last_error=self.standing.last_error if self.plan.missing else None,
        )

    def as_json(self) -> dict[str, Any]:
        """For `status.json`."""
        return asdict(self.standing)
