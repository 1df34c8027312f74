"""The coordinator's intake: pulls what workers announce, all the time, and says when a round may close.

Bytes come verified from the network; here duplicates, replays and what fits no round are refused, and the work that a
worker says it did is bounded by what it does not say itself (bounds.py). Knows no weights.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import trio
from cachetools import FIFOCache

from node.backoff import pauses
from node.errors import NetworkError, PeerError
from node.messages import Announcement
from node.session.balance import Balance, Timing
from node.session.board import Board
from node.session.bounds import Most, cut_to_others
from node.session.coordinated import Aggregator, CoordinatedPlan, Counted, discard
from node.session.deadline import AdaptiveDeadline
from node.session.notes import Orders, Work, read_work
from node.session.ports import Contribution, Directory, Payload, Peers

log = logging.getLogger(__name__)
TRIES = 6
SHORTEST_S = 0.001  # a shorter wait might not move the clock
LOOK_S = 0.5  # between looks at who is connected
MISSES = 2  # deadlines that a connected worker may miss before it is no longer waited for
MEMORY = 4096  # digests remembered against replays

Source = tuple[int, int]  # the worker that brought an update, and the round


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the round in flight is, for people."""

    round: int
    arrived: int
    quorum: int
    waiting_for: tuple[int, ...]
    left_s: float  # until the deadline; below quorum until the coordinator gives up
    below_quorum: bool  # past the deadline, and too few are here that could still deliver


@dataclass(frozen=True, slots=True)
class Delivery:
    """One worker's update, verified, with how long everything took."""

    counted: Counted
    timing: Timing


@dataclass
class Collector:
    """`run` pulls for as long as the session lasts; `collect` waits until a round may close and gives what is there."""

    plan: CoordinatedPlan
    peers: Peers
    directory: Directory
    board: Board
    aggregator: Aggregator
    deadline: AdaptiveDeadline
    balance: Balance
    patience_s: float  # beyond the deadline, while fewer than a quorum are here that could still deliver
    chance: random.Random
    most: Callable[[int], Most | None] = lambda _member: None  # of a member's round, where that is known here
    round: int = 0  # the round in flight
    _orders: dict[int, Orders] = field(default_factory=dict)  # by round, of those that may still come in
    _here: dict[int, float] = field(default_factory=dict)  # since when a worker that is connected could deliver
    _short: float | None = None  # since when too few are here
    _started: float = 0.0
    _pool: dict[int, Delivery] = field(default_factory=dict)
    _used: dict[int, int] = field(default_factory=dict)  # newest round by worker that went in
    _digests: "FIFOCache[bytes, Source]" = field(default_factory=lambda: FIFOCache(MEMORY))
    _refused: dict[int, bytes] = field(default_factory=dict)
    _withheld: dict[int, bytes] = field(default_factory=dict)  # the newest that a worker announced and did not give
    _pulling: dict[int, tuple[bytes, trio.CancelScope]] = field(default_factory=dict)
    _missed: dict[int, int] = field(default_factory=dict)
    _closed: int = 0  # rounds of this run
    _changed: trio.Event = field(default_factory=trio.Event)

    def begin(self, round: int, orders: Orders, used: Mapping[int, int]) -> None:
        """A round's model was announced with these orders; `used` is what went into the model so far."""
        self.round, self._started = round, trio.current_time()
        self._here, self._short = {}, None
        self._orders = {each: o for each, o in self._orders.items() if each >= round - self.plan.staleness}
        self._orders[round] = orders
        self._used.update(used)
        for member in [each for each, one in self._pool.items() if not self._is_wanted(each, _round(one))]:
            discard(self._pool.pop(member).counted.contribution.payload)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # Pulling

    async def run(self) -> None:
        """Pulls every update that could still count, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                for member in self._workers():
                    wanted, pulling = self._wanted(member), self._pulling.get(member)
                    if pulling is not None and (wanted is None or wanted.digest != pulling[0]):
                        pulling[1].cancel()  # what it is about can't count any more, or there is something newer
                    elif wanted is not None and pulling is None:
                        scope = trio.CancelScope()
                        self._pulling[member] = wanted.digest, scope
                        nursery.start_soon(self._pull, member, wanted, scope)
                with trio.move_on_after(LOOK_S):
                    await self.board.wait_for_change()

    def _workers(self) -> list[int]:
        return [member for member in range(self._places()) if self._is_worker(member)]

    def _places(self) -> int:
        own = self.directory.own_index
        return min(self.directory.count(), self.plan.maximum + int(own < self.plan.maximum))  # own takes no place

    def _is_worker(self, member: int) -> bool:
        return member != self.directory.own_index and self.directory.peer_of(member) is not None

    def _is_wanted(self, member: int, round: int) -> bool:
        return self.round - self.plan.staleness <= round <= self.round and round > self._used.get(member, 0)

    def _wanted(self, member: int) -> Announcement | None:
        """The newest announcement of a worker that could count and is not here yet, unless it is for another to bring.

        Who announces bytes that another worker announced before has them from it, as any member may: it would only
        have to be quicker. What that one does not give is taken from anybody.
        """
        found = self._missing(member)
        first = None if found is None else self.board.first_with(found.digest)
        if found is None or first is None or first == member:
            return found
        return None if self._may_bring(first, found.digest) else found

    def _may_bring(self, member: int, digest: bytes) -> bool:
        """Whether a worker may still bring these bytes, as its own update."""
        if member >= self._places() or not self._is_worker(member):
            return False
        own = self._missing(member)
        return own is not None and own.digest == digest and self._withheld.get(member) != digest

    def _missing(self, member: int) -> Announcement | None:
        """The newest announcement of a worker that could count and is not here yet."""
        found = self.board.newest_within(member, max(1, self.round - self.plan.staleness), self.round)
        if found is None or not self._is_wanted(member, found.round) or self._refused.get(member) == found.digest:
            return None
        held = self._pool.get(member)
        return None if held is not None and _round(held) >= found.round else found

    async def _pull(self, member: int, announcement: Announcement, scope: trio.CancelScope) -> None:
        delivery = None
        try:
            with scope:
                delivery = await self._obtain(member, announcement)
        except PeerError as error:
            log.warning("update of worker %d, round %d is refused: %s", member, announcement.round, error)
            self._refused[member] = announcement.digest
        else:
            if delivery is None:
                self._withheld[member] = announcement.digest
            elif self._is_wanted(member, announcement.round):
                self._take(member, delivery)
        finally:
            del self._pulling[member]
            self._wake()

    async def _obtain(self, member: int, announcement: Announcement) -> Delivery | None:
        """The update, verified; None if it could not be pulled now. PeerError if it can never count."""
        work = read_work(announcement.note)
        self._refuse_replay(member, announcement)
        begun = trio.current_time()
        payload = await self._fetch(announcement)
        if payload is None:
            return None
        upload_s = trio.current_time() - begun
        fault = await self.aggregator.accepts(payload)
        if fault is not None:
            discard(payload)
            raise PeerError(fault)
        self._refuse_replay(member, announcement)
        self._digests[announcement.digest] = member, announcement.round
        fresh = announcement.round == self.round
        trip_s = trio.current_time() - self._started if fresh else 0.0
        known = self.most(member)
        full = work.full if known is None else min(work.full, known.steps)
        examples = self._believed(member, announcement.round, work, known)
        times = (work.download_s, work.training_s, upload_s, trip_s)
        seen = Timing(member, announcement.round, work.steps, examples, *times, full=full)
        expected_s = self.balance.observe(seen, known is not None)
        if fresh:
            self.deadline.observe(expected_s)
        return Delivery(Counted(Contribution(member, announcement.round, payload), examples), seen)

    def _believed(self, member: int, round: int, work: Work, known: Most | None) -> int:
        """The examples that a worker counts for: no more than what was asked of it comes to.

        Of a whole round that was asked for without knowing its size, the other half of the bound is in `_close`.
        """
        asked = self._orders.get(round, Orders()).steps_of(member)
        steps = min(work.steps, asked or work.full)
        examples = min(work.examples, steps * self.plan.batch_size)
        return max(1, examples if known is None else min(examples, known.steps * self.plan.batch_size, known.examples))

    def _refuse_replay(self, member: int, announcement: Announcement) -> None:
        """Raises PeerError for bytes that were brought before, by this worker in another round or by another one."""
        first = self._digests.get(announcement.digest, (member, announcement.round))
        if first != (member, announcement.round):
            raise PeerError(f"the same update came from worker {first[0]} in round {first[1]}")

    async def _fetch(self, announcement: Announcement) -> Payload | None:
        tries = pauses(self.chance)
        for _ in range(TRIES):
            try:
                return await self.peers.fetch(announcement, [announcement.peer_id], self.deadline.bound_s)
            except PeerError as error:
                log.info("update of %s, round %d: %s", announcement.peer_id, announcement.round, error)
            await trio.sleep(next(tries))
        return None

    def _take(self, member: int, delivery: Delivery) -> None:
        if (before := self._pool.get(member)) is not None:
            discard(before.counted.contribution.payload)
        self._pool[member] = delivery
        self._missed.pop(member, None)

    # Closing a round

    async def collect(self, watch: Callable[[Standing], None], stopping: trio.Event) -> list[Delivery]:
        """The updates of the round, ascending by worker, once it may close: all in, or the deadline and the quorum.

        NetworkError if the quorum does not come. When `stopping` is set, the quorum is enough.
        """
        present: set[int] = set()
        while True:
            changed, now = self._changed, trio.current_time()
            connected = self._connected()
            present |= connected
            self._here = {member: self._here.get(member, now) for member in connected}
            waiting = present - self._fresh() - {m for m, misses in self._missed.items() if misses >= MISSES}
            elapsed, limit = now - self._started, self._limit_s(len(present))
            enough = len(self._pool) >= self.plan.quorum
            if enough and (not waiting or elapsed >= limit or stopping.is_set()):
                return self._close(waiting)
            left_s, below = self._left_s(enough, limit), self._short is not None
            if left_s <= 0:
                raise NetworkError(self._what_is_missing(elapsed))
            watch(Standing(self.round, len(self._pool), self.plan.quorum, tuple(sorted(waiting)), left_s, below))
            with trio.move_on_after(min(LOOK_S, max(left_s, SHORTEST_S))):
                await changed.wait()

    def _left_s(self, enough: bool, limit: float) -> float:
        """Until the deadline; past it, below the quorum, until there is no more hope for it.

        A worker that is connected may take the session's whole bound, and is waited for; the patience runs while those
        who are here and could still deliver are fewer than a quorum.
        """
        now = trio.current_time()
        at_work = [
            since + self.deadline.bound_s - now for member, since in self._here.items() if member not in self._pool
        ]
        hopes = sorted(left for left in at_work if left > 0)
        wanted = self.plan.quorum - len(self._pool)
        if enough or now - self._started < limit or len(hopes) >= wanted:
            self._short = None
            until_deadline = limit - (now - self._started)
            return until_deadline if enough or until_deadline > 0 else hopes[-wanted]
        if self._short is None:
            self._short = now
        return self._short + self.patience_s - now

    def _what_is_missing(self, elapsed: float) -> str:
        """For people: why the quorum did not come, and the cure."""
        has = f"round {self.round} has {len(self._pool)} of {self.plan.quorum} updates after {elapsed:.0f} s"
        again = "start the coordinator again, it goes on with this round"
        idle = sorted(member for member in self._here if member not in self._pool)
        if len(idle) < self.plan.quorum - len(self._pool):
            return f"{has}, with {len(self._here)} workers connected: start more workers and {again}"
        named = ", ".join(map(str, idle[:8])) + (" and more" if len(idle) > 8 else "")
        return (
            f"{has}: workers {named} are connected, but sent none within the session's round deadline of "
            f"{self.deadline.bound_s:g} s: see what they do (their status and log), and {again}; for slower workers "
            "create a session with a longer --round-deadline or a smaller --quorum"
        )

    def _connected(self) -> set[int]:
        indices = {self.directory.index_of(peer) for peer in self.peers.connected()}
        return {member for member in self._workers() if member in indices}

    def _fresh(self) -> set[int]:
        return {member for member, held in self._pool.items() if _round(held) == self.round}

    def _limit_s(self, present: int) -> float:
        """The adaptive deadline; in our first round the session's bound until half of those who are here are done."""
        early = not self._closed and 2 * len(self._fresh()) < present
        return self.deadline.bound_s if early else self.deadline.seconds()

    def _close(self, missing: set[int]) -> list[Delivery]:
        for member in missing:
            if member not in self._pool:
                self._missed[member] = self._missed.get(member, 0) + 1
        found = self._bounded([self._pool[member] for member in sorted(self._pool)])
        self._pool.clear()
        self._closed += 1
        self._used.update({one.counted.contribution.member: _round(one) for one in found})
        return found

    def _bounded(self, found: list[Delivery]) -> list[Delivery]:
        """With nobody counting for many times more than the others, where the size of its data is its own word."""
        bounds = cut_to_others({_member(one): one.counted.examples for one in found})
        return [_counting(one, bounds[_member(one)]) if self.most(_member(one)) is None else one for one in found]


def _member(delivery: Delivery) -> int:
    return delivery.counted.contribution.member


def _counting(delivery: Delivery, examples: int) -> Delivery:
    counted, timing = delivery.counted, delivery.timing
    return Delivery(replace(counted, examples=examples), replace(timing, examples=examples))


def _round(delivery: Delivery) -> int:
    return delivery.counted.contribution.round
