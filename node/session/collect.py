"""The coordinator's intake: pulls what workers announce, all the time, and says when a round may close.

Bytes come verified from the network; here duplicates, replays and what fits no round are refused. Knows no weights.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from node.backoff import pauses
from node.errors import NetworkError, PeerError
from node.messages import Announcement
from node.session.balance import Balance, Timing
from node.session.board import Board
from node.session.coordinated import Aggregator, CoordinatedPlan, Counted, discard
from node.session.deadline import AdaptiveDeadline
from node.session.notes import Work, read_work
from node.session.ports import Contribution, Directory, Payload, Peers

log = logging.getLogger(__name__)
TRIES = 6
SHORTEST_S = 0.001  # a shorter wait might not move the clock
LOOK_S = 0.5  # between looks at who is connected
MISSES = 2  # deadlines that a connected worker may miss before it is no longer waited for
MEMORY = 4096  # digests remembered against replays


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the round in flight is, for people."""

    round: int
    arrived: int
    quorum: int
    waiting_for: tuple[int, ...]
    left_s: float  # until the deadline; below quorum until the coordinator gives up
    below_quorum: bool


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
    patience_s: float  # for a quorum, beyond the deadline
    chance: random.Random
    round: int = 0  # the round in flight
    asked: tuple[int, ...] = ()  # steps that were asked for in it
    _started: float = 0.0
    _pool: dict[int, Delivery] = field(default_factory=dict)
    _used: dict[int, int] = field(default_factory=dict)  # newest round by worker that went in
    _digests: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # (worker, round) that brought it
    _refused: dict[int, bytes] = field(default_factory=dict)
    _pulling: dict[int, tuple[bytes, trio.CancelScope]] = field(default_factory=dict)
    _missed: dict[int, int] = field(default_factory=dict)
    _closed: int = 0  # rounds of this run
    _changed: trio.Event = field(default_factory=trio.Event)

    def begin(self, round: int, asked: tuple[int, ...], used: Mapping[int, int]) -> None:
        """A round's model was announced; `used` is what went into the model so far."""
        self.round, self.asked, self._started = round, asked, trio.current_time()
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
        own = self.directory.own_index
        last = min(self.directory.count(), self.plan.maximum + int(own < self.plan.maximum))  # own takes no place
        return [m for m in range(last) if m != own and self.directory.peer_of(m) is not None]

    def _is_wanted(self, member: int, round: int) -> bool:
        return self.round - self.plan.staleness <= round <= self.round and round > self._used.get(member, 0)

    def _wanted(self, member: int) -> Announcement | None:
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
            if delivery is not None and self._is_wanted(member, announcement.round):
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
        self._remember(member, announcement)
        fresh = announcement.round == self.round
        trip_s = trio.current_time() - self._started if fresh else 0.0
        examples = min(work.examples, work.steps * self.plan.batch_size, self._most_examples(member, work))
        times = (work.download_s, work.training_s, upload_s, trip_s)
        seen = Timing(member, announcement.round, work.steps, examples, *times, full=work.full)
        self.balance.observe(seen, work)
        if fresh:
            self.deadline.observe(trip_s)
        return Delivery(Counted(Contribution(member, announcement.round, payload), examples), seen)

    def _most_examples(self, member: int, work: Work) -> int:
        """Nobody's weight grows by claiming more work than was asked for."""
        asked = self.asked[member] if member < len(self.asked) else 0
        return max(1, (asked or work.full) * self.plan.batch_size)

    def _refuse_replay(self, member: int, announcement: Announcement) -> None:
        """Raises PeerError for bytes that were brought before, by this worker in another round or by another one."""
        first = self._digests.get(announcement.digest, (member, announcement.round))
        if first != (member, announcement.round):
            raise PeerError(f"the same update came from worker {first[0]} in round {first[1]}")

    def _remember(self, member: int, announcement: Announcement) -> None:
        self._digests[announcement.digest] = (member, announcement.round)
        while len(self._digests) > MEMORY:
            del self._digests[next(iter(self._digests))]

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
            changed = self._changed
            present |= self._connected()
            waiting = present - self._fresh() - {m for m, misses in self._missed.items() if misses >= MISSES}
            elapsed, limit = trio.current_time() - self._started, self._limit_s(len(present))
            enough = len(self._pool) >= self.plan.quorum
            if enough and (not waiting or elapsed >= limit or stopping.is_set()):
                return self._close(waiting)
            below = not enough and elapsed >= limit
            left_s = limit - elapsed + (self.patience_s if below else 0.0)
            if left_s <= 0:
                raise NetworkError(
                    f"round {self.round} has {len(self._pool)} of {self.plan.quorum} updates after {elapsed:.0f} s: "
                    "start more workers and start the coordinator again, it goes on with this round"
                )
            watch(Standing(self.round, len(self._pool), self.plan.quorum, tuple(sorted(waiting)), left_s, below))
            with trio.move_on_after(min(LOOK_S, max(left_s, SHORTEST_S))):
                await changed.wait()

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
        found = [self._pool[member] for member in sorted(self._pool)]
        self._pool.clear()
        self._closed += 1
        self._used.update({one.counted.contribution.member: _round(one) for one in found})
        return found


def _round(delivery: Delivery) -> int:
    return delivery.counted.contribution.round
