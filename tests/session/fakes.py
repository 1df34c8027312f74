"""A whole session in memory: members on a bus, learners that only hash, disks that are dictionaries."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from node.errors import PeerError
from node.messages import Announcement, Input, Mix, Traffic
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from node.session.gossip import Gossip, Plan, Ports, RoundReport
from node.session.pace import Pace
from node.session.ports import Contribution, Mixed, Progress, Trained

PLAN = Plan(session_id=7, rounds=4, cohort=5, codec="float32", snapshot_every=2)


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class Bus:
    """The network: everybody who is online hears everything at once."""

    members: dict[str, "Member"] = field(default_factory=dict)
    offline: set[str] = field(default_factory=set)
    slow: dict[str, float] = field(default_factory=dict)  # seconds a fetch from this peer takes
    corrupt: set[str] = field(default_factory=set)
    deaf: bool = False  # announcements get lost
    asked_since: list[int] = field(default_factory=list)  # what was announced, from which round on


@dataclass
class FakePeers:
    bus: Bus
    peer_id: str

    def connected(self) -> frozenset[str]:
        return frozenset(self.bus.members) - self.bus.offline - {self.peer_id}

    async def announce(self, announcement: Announcement) -> None:
        await trio.lowlevel.checkpoint()
        for name, member in self.bus.members.items():
            if name not in self.bus.offline and not self.bus.deaf:
                member.board.post(announcement)

    async def ask(self, peer_id: str, since: int = 0) -> None:
        await trio.sleep(0.01)
        self.bus.asked_since.append(since)
        for announcement in self.bus.members[peer_id].disk.announcements:
            if announcement.round >= since:
                self.bus.members[self.peer_id].board.post(announcement)

    async def tell(self, peer_id: str, announcement: Announcement) -> None:
        await trio.sleep(0.01)
        if peer_id in self.bus.offline or self.peer_id in self.bus.offline:
            raise PeerError(f"{peer_id} does not answer")
        self.bus.members[peer_id].board.post(announcement)

    async def fetch(self, announcement: Announcement, holders: Sequence[str], deadline: float) -> bytes:
        owner = announcement.peer_id
        await trio.sleep(self.bus.slow.get(owner, 0.01))
        if owner in self.bus.offline or owner in self.bus.corrupt:
            raise PeerError(f"{owner} does not answer")
        return self.bus.members[owner].disk.payloads[announcement.digest]

    def traffic(self) -> Mapping[str, Traffic]:
        return {}

    def sign(self, message: bytes) -> bytes:
        return sha256(self.peer_id.encode() + message) * 2


@dataclass
class FakeDirectory:
    names: list[str]
    own_index: int
    left: set[str] = field(default_factory=set)

    def count(self) -> int:
        return len(self.names)

    def peer_of(self, index: int) -> str | None:
        return self.names[index] if index < len(self.names) and self.names[index] not in self.left else None

    def index_of(self, peer_id: str) -> int | None:
        return self.names.index(peer_id) if peer_id in self.names and peer_id not in self.left else None


@dataclass
class FakeLearner:
    """Its parameters are a hash of everything that ever went in."""

    own_index: int
    parameters: bytes = b"start"
    train_s: float = 1.0
    trained: int = 0
    poison: set[bytes] = field(default_factory=set)

    async def train(self, round: int) -> Trained:
        await trio.sleep(self.train_s)
        self.trained += 1
        payload = b"update %d of %d from " % (round, self.own_index) + self.parameters
        return Trained(payload, sha256(payload))

    async def repeat(self, round: int, committed: Trained) -> Trained:
        await trio.lowlevel.checkpoint()
        return committed

    async def accepts(self, payload: bytes) -> str | None:
        await trio.lowlevel.checkpoint()
        return "a number is not finite" if payload in self.poison else None

    async def mix(self, round: int, own: bytes, others: Sequence[Contribution]) -> Mixed:
        entries = [Input(self.own_index, 65535 - len(others), 0)]
        entries += [Input(other.member, 1, round - other.round) for other in others]
        mixed = sha256(own + b"".join(bytes(other.payload) for other in others))
        self.parameters = mixed
        return Mixed(tuple(sorted(entries, key=lambda entry: entry.member)), mixed, sha256(mixed))


@dataclass
class Disk:
    """Journal and outbox of one member; survives its crash."""

    payloads: dict[bytes, bytes] = field(default_factory=dict)
    trained_updates: dict[int, Trained] = field(default_factory=dict)
    announcements: list[Announcement] = field(default_factory=list)
    mixes: list[Mix] = field(default_factory=list)
    records: list[tuple[int, bytes | None, Mix | None]] = field(default_factory=list)
    is_closed: bool = False
    damaged: set[bytes] = field(default_factory=set)  # hashes of payloads
    mixless: list[int] = field(default_factory=list)  # rounds that are over without a mix

    async def load(self) -> Progress:
        last = self.mixes[-1] if self.mixes else None
        round = max(last.round + 1 if last else 1, *self.trained_updates, *(each + 1 for each in self.mixless), 1)
        promised = self.trained_updates.get(round)
        whole = promised if promised is None or promised.digest not in self.damaged else None
        return Progress(round, None if self.is_closed else last, whole, promised.digest if promised else None)

    async def trained(self, round: int, trained: Trained) -> Trained:
        self.payloads[trained.digest] = trained.payload
        self.trained_updates[round] = trained
        return trained

    async def announced(self, announcement: Announcement) -> None:
        assert any(round == announcement.round for round, _, _ in self.records), "revealed before it was committed"
        self.announcements.append(announcement)

    async def mixed(self, mix: Mix) -> None:
        self.mixes.append(mix)
        self.is_closed = False

    async def left_out(self, round: int) -> None:
        self.mixless.append(round)
        self.is_closed = True

    async def closed(self) -> None:
        self.is_closed = True

    async def commit(self, round: int, digest: bytes, mix: Mix | None) -> None:
        if (round, digest, mix) not in self.records:
            assert all(known != round for known, other, _ in self.records if other), f"round {round} was recorded twice"
            self.records.append((round, digest, mix))

    async def close(self, round: int, mix: Mix) -> None:
        self.records.append((round, None, mix))


@dataclass
class FakeSnapshots:
    added: dict[int, Mapping[str, bytes]] = field(default_factory=dict)
    broken: bool = False

    async def add(self, round: int, files: Mapping[str, bytes]) -> str | None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            return None
        self.added[round] = files
        return f"cid-{round}"


@dataclass
class Member:
    gossip: Gossip
    board: Board
    disk: Disk
    learner: FakeLearner
    snapshots: FakeSnapshots
    reports: list[RoundReport]

    async def run(self) -> int:
        return await self.gossip.run()


def make_member(bus: Bus, names: list[str], index: int, plan: Plan = PLAN, disk: Disk | None = None) -> Member:
    """A member of a session in memory, on a new or an old disk."""
    peers, directory = FakePeers(bus, names[index]), FakeDirectory(names, index)
    learner, snapshots = FakeLearner(index), FakeSnapshots()
    disk = disk or Disk()
    board = Board(plan.session_id, directory, window=3)
    gatherer = Gatherer(peers, directory, board, learner, staleness=2, deadline=AdaptiveDeadline(30.0))
    ports = Ports(peers, directory, learner, disk, disk, snapshots)
    reports: list[RoundReport] = []

    def observe(_event: str, value: RoundReport | int) -> None:
        if isinstance(value, RoundReport):
            reports.append(value)

    pace = Pace(peers, directory, board, staleness=2)
    member = Member(Gossip(plan, ports, board, gatherer, pace, observe), board, disk, learner, snapshots, reports)
    bus.members[names[index]] = member
    return member


def make_session(names: list[str], plan: Plan = PLAN) -> tuple[Bus, list[Member]]:
    """A bus and one member per name."""
    bus = Bus()
    return bus, [make_member(bus, names, index, plan) for index in range(len(names))]


def with_rounds(rounds: int) -> Plan:
    return replace(PLAN, rounds=rounds)
