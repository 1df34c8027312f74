"""A member's rounds in the gossip topology (design: a gossip round of member i): train, commit, reveal, gather, mix."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from node.messages import ABSENT, OTHERS, Announcement, Input, Mix, Traffic, announcement_bytes
from node.session.balance import Timing
from node.session.board import Board
from node.session.cohort import draw_cohort
from node.session.gather import Gatherer
from node.session.pace import Pace
from node.session.ports import (
    Contribution,
    Directory,
    Earlier,
    Journal,
    Learner,
    Mixed,
    NothingEarlier,
    Peers,
    Progress,
    Records,
    Snapshots,
    Trained,
)

log = logging.getLogger(__name__)
GONE_S = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the session file says about rounds."""

    session_id: int
    rounds: int
    cohort: int
    codec: str
    snapshot_every: int


@dataclass(frozen=True, slots=True)
class Ports:
    """The parts of the node that a member's rounds speak to."""

    peers: Peers
    directory: Directory
    learner: Learner
    records: Records
    journal: Journal
    snapshots: Snapshots
    earlier: Earlier = field(default_factory=NothingEarlier)


class Present(Protocol):
    """Who is there."""

    @property
    def peers(self) -> Peers:
        """The network."""

    @property
    def directory(self) -> Directory:
        """The members."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One finished round, for people: weights (of their sum), bytes on the wire, seconds."""

    round: int
    inputs: tuple[Input, ...]
    metrics: dict[str, float]
    traffic: dict[str, Traffic]  # per member, and of all OTHERS together, in this round
    train_s: float
    commit_s: float
    gather_s: float
    mix_s: float
    snapshot: str | None
    work: tuple[Timing, ...] = ()  # what each worker did, in a coordinator's report


@dataclass
class Gossip:
    """The life of one member in one session; `run` is the whole of it."""

    plan: Plan
    ports: Ports
    board: Board
    gatherer: Gatherer
    pace: Pace
    observe: Callable[[str, RoundReport | int], None] = lambda _event, _value: None
    stopping: trio.Event = field(default_factory=trio.Event)
    finished: int = 0  # the last round that is over

    async def run(self) -> int:
        """Goes through the rounds that are left; returns the last finished one.

        When `stopping` is set it finishes the round in flight, records its mix, and returns.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.gatherer.flights.run)
            try:
                await self._rounds()
            except Exception as error:  # noqa: BLE001 - raised below, since a nursery would wrap it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self.finished

    async def _rounds(self) -> None:
        progress = await self.ports.journal.load()
        pending, round = progress.pending_mix, progress.next_round
        self.finished = round - 1
        while round <= self.plan.rounds and (progress.promised is not None or not self.stopping.is_set()):
            if progress.promised is None:
                round = self._onward(round)
            self.observe("training", round)
            pending = await self._round(round, replace(progress, next_round=round))
            self.finished, round = round, round + 1
            progress = Progress(round, pending)
        if pending is not None:
            await self.ports.records.close(round, pending)
            await self.ports.journal.closed()

    def _onward(self, round: int) -> int:
        """The round to train, which is a later one where the others outrun this member."""
        onward = self.pace.next_round(round, self.plan.rounds)
        if onward > round:
            log.warning(
                "the others are in round %d: going on with round %d, rounds %d to %d are left out",
                self.pace.others(),
                onward,
                round,
                onward - 1,
            )
        return onward

    async def _round(self, round: int, progress: Progress) -> Mix | None:
        """The round's mix; None where the round is left out."""
        started = trio.current_time()
        before = dict(self.ports.peers.traffic())
        trained = await self._train(round, progress)
        if trained is None:
            assert progress.promised is not None
            await self.ports.records.commit(round, progress.promised, progress.pending_mix)
            await self.ports.journal.left_out(round)
            return None
        members = self.ports.directory.count()
        trained_at = trio.current_time()
        await self.ports.records.commit(round, trained.digest, progress.pending_mix)
        committed_at = trio.current_time()
        await self._reveal(round, trained)
        self.pace.announced()
        self.observe("gathering", round)
        me = self.ports.directory.own_index
        cohort = draw_cohort(self.plan.session_id, round, me, members, self.plan.cohort)
        contributions = await self.gatherer.gather(round, cohort)
        gathered_at = trio.current_time()
        self.observe("mixing", round)
        mixed = await self.ports.learner.mix(round, trained.payload, contributions)
        snapshot = await self._snapshot(round, trained, mixed)
        mix = Mix(round, members, complete_row(cohort, mixed, contributions), mixed.digest, snapshot, mixed.epsilon)
        await self.ports.journal.mixed(mix)
        report = RoundReport(
            round,
            mix.inputs,
            {**trained.metrics, **mixed.metrics},
            traffic_of_round(self.ports.peers, self.ports.directory, before),
            trained_at - started,
            committed_at - trained_at,
            gathered_at - committed_at,
            trio.current_time() - gathered_at,
            snapshot,
        )
        self.observe("finished", report)
        return mix

    async def _train(self, round: int, progress: Progress) -> Trained | None:
        """The round's update: the one that was committed before a crash, or a new one that is kept on disk first.

        None where the committed one was damaged on disk, and trained again is another one, which would contradict it.
        """
        if progress.committed is not None:
            return await self.ports.learner.repeat(round, progress.committed)
        trained = await self.ports.learner.train(round)
        if progress.promised not in (None, trained.digest):
            log.warning(
                "the update of round %d is damaged on disk, and trained again it is another one than was promised: "
                "rounds %d to %d are left out",
                round,
                round,
                round,
            )
            return None
        return await self.ports.journal.trained(round, trained)

    async def _reveal(self, round: int, trained: Trained) -> None:
        peers, plan = self.ports.peers, self.plan
        size = trained.size
        message = announcement_bytes(plan.session_id, round, trained.digest, size, plan.codec)
        signature = peers.sign(message)
        announcement = Announcement(plan.session_id, round, trained.digest, size, plan.codec, peers.peer_id, signature)
        await self.ports.journal.announced(announcement)
        await peers.announce(announcement)

    async def _snapshot(self, round: int, trained: Trained, mixed: Mixed) -> str | None:
        every = self.plan.snapshot_every  # the first that it takes part in since a round that is due
        if round // every == self.finished // every and round != self.plan.rounds:
            return None
        self.observe("saving a snapshot", round)
        files = {"update": trained.payload, "mixed.safetensors": mixed.payload}
        before = await self.ports.earlier.builds_on(trained.payload)
        files |= {earlier_name(position): payload for position, payload in enumerate(before, 1)}
        return await self.ports.snapshots.add(round, files)


def earlier_name(position: int) -> str:
    """In a snapshot, the file of the payload that the update builds on directly (1), or through others."""
    return f"earlier-{position}"


def complete_row(cohort: tuple[int, ...], mixed: Mixed, contributions: list[Contribution]) -> tuple[Input, ...]:
    """The row as it is recorded: the member itself and all of its cohort, absent or not, ascending by member."""
    rows = {entry.member: entry for entry in mixed.inputs}
    came = {contribution.member: contribution for contribution in contributions}
    for member in cohort:
        if member not in came:
            rows[member] = Input(member, 0, ABSENT)
    return tuple(rows[member] for member in sorted(rows))


def traffic_of_round(peers: Peers, directory: Directory, before: Mapping[str, Traffic]) -> dict[str, Traffic]:
    """Bytes per member since an earlier reading of the counters; under OTHERS those of everybody else together."""
    spent: dict[str, Traffic] = {}
    for peer, one in traffic_since(before, peers.traffic()).items():
        key = peer if peer and directory.index_of(peer) is not None else OTHERS
        spent[key] = spent.get(key, Traffic(0, 0)) + one
    return spent


def traffic_since(before: Mapping[str, Traffic], after: Mapping[str, Traffic]) -> dict[str, Traffic]:
    """Bytes per peer between two readings of the counters, which begin at 0 again for a peer that was forgotten."""
    spent, none = {}, Traffic(0, 0)
    for peer, now in after.items():
        then = before.get(peer, none)
        if now.bytes_in < then.bytes_in or now.bytes_out < then.bytes_out:
            then = none
        spent[peer] = now - then
    return spent


async def wait_for_quorum(ports: Present, quorum: int, progress: Callable[[int], None]) -> None:
    """Returns once `quorum` members (this one counted) are present; tells `progress` how many there are."""
    last = -1
    while True:
        peers = ports.peers.connected()
        present = 1 + sum(ports.directory.index_of(peer) is not None for peer in peers)
        if present != last:
            progress(present)
            last = present
        if present >= quorum:
            return
        await trio.sleep(0.1)


async def linger(ports: Ports, board: Board, rounds: int) -> None:
    """Serves on until every member has announced its last round, so that nobody misses our update.

    A member without a connection is given GONE_S to come back: it may be restarting after a crash.
    """
    gone_since: dict[int, float] = {}
    while True:
        connected = {ports.directory.index_of(peer) for peer in ports.peers.connected()}
        waiting = False
        for member in range(ports.directory.count()):
            newest = board.newest(member)
            if member == ports.directory.own_index or (newest is not None and newest.round >= rounds):
                continue
            if member in connected:
                gone_since.pop(member, None)
                waiting = True
            elif newest is not None:
                waiting |= trio.current_time() - gone_since.setdefault(member, trio.current_time()) < GONE_S
        if not waiting:
            return
        await trio.sleep(0.1)
