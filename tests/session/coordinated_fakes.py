"""A coordinated session in memory: a coordinator and workers on a bus, models that only hash, disks as dictionaries."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from node.messages import Announcement, Input
from node.session.balance import Balance
from node.session.board import Board
from node.session.collect import Collector, Standing
from node.session.convergence import Goal
from node.session.coordinated import Aggregated, CoordinatedPlan, CoordinatedPorts, Counted, WorkDone
from node.session.coordinator import Coordinator
from node.session.deadline import AdaptiveDeadline
from node.session.gossip import RoundReport
from node.session.notes import Work
from node.session.ports import Trained
from node.session.push import Push
from node.session.worker import Worker
from tests.session.fakes import Bus, Disk, FakeDirectory, FakePeers, FakeSnapshots, sha256

PLAN = CoordinatedPlan(session_id=7, rounds=4, quorum=2, codec="float32", snapshot_every=2, staleness=2, batch_size=10)
FULL = 20  # steps of a full round


@dataclass
class CoordinatedDisk(Disk):
    notes: dict[int, bytes] = field(default_factory=dict)

    async def trained(self, round: int, trained: Trained, note: bytes = b"") -> Trained:
        self.notes[round] = note
        return await super().trained(round, trained)

    async def note(self, round: int) -> bytes:
        return self.notes.get(round, b"")

    async def newest(self) -> tuple[int, Trained] | None:
        if not self.trained_updates:
            return None
        round = max(self.trained_updates)
        return round, self.trained_updates[round]

    async def announcement(self, round: int) -> Announcement | None:
        return next((each for each in self.announcements if each.round == round), None)

    async def announced(self, announcement: Announcement) -> None:
        committed = any(round == announcement.round for round, _, _ in self.records)
        assert committed, "revealed before it was committed"
        self.announcements.append(announcement)


@dataclass
class FakeAggregator:
    """Its model is a hash of everything that went in; weights go by examples."""

    content: bytes = b"start"
    went_in: dict[int, int] = field(default_factory=dict)
    seen: list[Mapping[str, float]] = field(default_factory=list)
    counted: list[dict[int, int]] = field(default_factory=list)  # examples by worker, for each round
    accuracies: Sequence[float] = ()
    poison: set[bytes] = field(default_factory=set)
    own: int = 0  # index of the coordinator

    async def model(self) -> Trained:
        return Trained(self.content, sha256(self.content))

    async def accepts(self, payload: bytes) -> str | None:
        await trio.lowlevel.checkpoint()
        return "a number is not finite" if payload in self.poison else None

    async def aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        self.counted.append({one.contribution.member: one.examples for one in updates})
        rows = [(one.contribution.member, round - one.contribution.round) for one in updates]
        for one in updates:
            assert self.went_in.get(one.contribution.member, 0) < one.contribution.round, "an update went in twice"
            self.went_in[one.contribution.member] = one.contribution.round
        entries = [Input(member, 65535 if index == 0 else 0, lag) for index, (member, lag) in enumerate(rows)]
        self.content = sha256(self.content + b"".join(bytes(one.contribution.payload) for one in updates))
        accuracy = self.accuracies[len(self.seen)] if len(self.seen) < len(self.accuracies) else 0.5
        self.seen.append({"validation_accuracy": accuracy})
        own = Input(self.own, 0, 0)
        return Aggregated((own, *entries), self.content, sha256(self.content), self.seen[-1], {"moments": b"m"})

    def used(self) -> Mapping[int, int]:
        return self.went_in

    def history(self) -> Sequence[Mapping[str, float]]:
        return self.seen


@dataclass
class FakeTrainee:
    """Takes `step_s` for each step."""

    member: int
    step_s: float = 0.05
    model: bytes = b""
    trained: list[tuple[int, int]] = field(default_factory=list)  # (round, steps)
    affords: int | None = None  # rounds that its privacy budget pays for

    def epsilon(self) -> float | None:
        return None if self.affords is None else len(self.trained) / 10

    async def adopt(self, payload: bytes, measure: bool) -> Mapping[str, float]:
        await trio.lowlevel.checkpoint()
        self.model = bytes(payload)
        return {}

    async def train(self, round: int, steps: int, stop) -> WorkDone | None:
        if self.affords is not None and len(self.trained) >= self.affords:
            return None
        begun, done = trio.current_time(), 0
        while done < (min(steps, FULL) or FULL) and (not done or not stop()):
            await trio.sleep(self.step_s)
            done += 1
        self.trained.append((round, done))
        payload = b"update %d of %d, %d steps from " % (round, self.member, done) + self.model
        work = Work(examples=10 * done, steps=done, full=FULL, training_s=trio.current_time() - begun)
        return WorkDone(Trained(payload, sha256(payload)), work)


@dataclass
class Node:
    """A member's process: what is lost when it dies, and the disk that is not."""

    life: Coordinator | Worker
    board: Board
    disk: CoordinatedDisk
    snapshots: FakeSnapshots
    reports: list[RoundReport]
    leave: Callable[[], None]
    standings: list[Standing] = field(default_factory=list)

    async def run(self) -> int:
        finished = await self.life.run()
        self.leave()
        return finished


@dataclass
class Session:
    """Everybody: the coordinator is member 0."""

    names: list[str]
    plan: CoordinatedPlan = PLAN
    bus: Bus = field(default_factory=Bus)
    balance: bool = True
    goal: Goal = field(default_factory=Goal)
    patience_s: float = 100.0
    bound_s: float = 30.0

    def ports(self, index: int, disk: CoordinatedDisk) -> tuple[CoordinatedPorts, Board, FakeSnapshots]:
        peers, directory = FakePeers(self.bus, self.names[index]), FakeDirectory(self.names, index)
        snapshots = FakeSnapshots()
        board = Board(self.plan.session_id, directory, window=self.plan.staleness + 2)
        return CoordinatedPorts(peers, directory, disk, disk, snapshots), board, snapshots

    def coordinator(
        self, disk: CoordinatedDisk | None = None, aggregator: FakeAggregator | None = None, index: int = 0
    ) -> Node:
        disk = disk or CoordinatedDisk()
        ports, board, snapshots = self.ports(index, disk)
        aggregator = aggregator or FakeAggregator()
        deadline = AdaptiveDeadline(self.bound_s, 4.0, 0.5)
        collector = Collector(
            self.plan,
            ports.peers,
            ports.directory,
            board,
            aggregator,
            deadline,
            Balance(self.balance),
            self.patience_s,
            random.Random(1),
        )
        reports: list[RoundReport] = []
        standings: list[Standing] = []

        def observe(_event, value):
            if isinstance(value, RoundReport):
                reports.append(value)

        push = Push(ports.peers, lambda: frozenset(self.names) - {self.names[index]}, random.Random(2))
        life = Coordinator(self.plan, ports, aggregator, collector, push, self.goal, observe, standings.append)
        return self._seat(index, Node(life, board, disk, snapshots, reports, self._leaver(index), standings))

    def worker(self, index: int, disk: CoordinatedDisk | None = None, step_s: float = 0.05) -> Node:
        disk = disk or CoordinatedDisk()
        ports, board, snapshots = self.ports(index, disk)
        chance = random.Random(index)
        push = Push(ports.peers, lambda: frozenset({self.names[0]}), chance)
        life = Worker(self.plan, ports, FakeTrainee(index, step_s), board, lambda: 0, 1000.0, push, chance)
        reports: list[RoundReport] = []

        def observe(_event, value):
            if isinstance(value, RoundReport):
                reports.append(value)

        life.observe = observe
        return self._seat(index, Node(life, board, disk, snapshots, reports, self._leaver(index)))

    def _leaver(self, index: int) -> Callable[[], None]:
        return lambda: self.bus.offline.add(self.names[index])

    def _seat(self, index: int, node: Node) -> Node:
        self.bus.members[self.names[index]] = node
        self.bus.offline.discard(self.names[index])
        return node


def make(workers: int, **changes) -> Session:
    """A session of a coordinator and so many workers; `changes` are of the session or of its plan."""
    own = {name: changes.pop(name) for name in ("balance", "goal", "patience_s", "bound_s") if name in changes}
    return Session(["boss", *(f"worker{i}" for i in range(1, workers + 1))], replace(PLAN, **changes), **own)
