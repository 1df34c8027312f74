"""What a node does in its session, by topology, behind one small protocol: begin, go through the rounds, linger."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from node.config import Coordination
from node.daemon.averaging import AveragingLearner, WorkingLearner, is_coordinators
from node.daemon.joining import Joining
from node.daemon.journal import Journal
from node.daemon.ports import DiskJournal, IpfsSnapshots, LedgerRecords, NetworkPeers
from node.daemon.prepare import Prepared, initial_parameters, is_named_coordinator, place_of, try_one_step
from node.daemon.served_data import OwnersRest, ServedData, taken_from
from node.daemon.settings import StartSettings
from node.daemon.succession import LedgerSuccession, Takeover, step_down
from node.errors import NetworkError, PeerError
from node.session.balance import Balance
from node.session.board import Board
from node.session.collect import Collector, Standing
from node.session.convergence import Goal
from node.session.coordinated import CoordinatedPlan, CoordinatedPorts
from node.session.coordinator import STOPPED, Coordinator
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from node.session.gossip import Gossip, Plan, Ports, Present, RoundReport, linger, wait_for_quorum
from node.session.notes import read_orders
from node.session.ports import NothingEarlier
from node.session.push import Push, only
from node.session.worker import Worker
from node.storage import Snapshots

DEADLINE_FLOOR_S = 0.5  # beyond the spread of the round trips


class Part(Protocol):
    """A member's life in a session."""

    stopping: trio.Event

    @property
    def finished(self) -> int:
        """The last round that is over."""

    @property
    def ended(self) -> str:
        """Why there is no further round, if it is not the last that is over."""

    async def begin(self) -> None:
        """Everything before the first round. NetworkError if the others do not come."""

    async def run(self) -> int:
        """The rounds that are left; the last finished one."""

    async def linger(self) -> None:
        """Returns when nobody needs this node any more."""


@dataclass(frozen=True, slots=True)
class Outside:
    """The real parts that a member's life is made of."""

    settings: StartSettings
    prepared: Prepared
    peers: NetworkPeers
    records: LedgerRecords
    journal: Journal
    ipfs: IpfsSnapshots
    snapshots: Snapshots
    board: Board
    resumed: bool = False  # the home was empty, and goes on from ledger and snapshots
    takeover: Takeover | None = None  # in sessions that elect the next coordinator


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told what happens."""

    observe: Callable[[str, RoundReport | int], None]
    tell: Callable[[str], None]


def take_part(outside: Outside, ears: Ears) -> Part:
    """The life that the session file gives this account."""
    coordinated = outside.prepared.opened.session.coordinated
    if coordinated is None:
        return GossipPart(outside, ears)
    takeover = outside.takeover
    if coordinates(outside.prepared, None if takeover is None else takeover.succession):
        return CoordinatorPart(outside, ears, coordinated)
    return WorkerPart(outside, ears, coordinated)


def coordinates(prepared: Prepared, succession: LedgerSuccession | None) -> bool:
    """Whether this account coordinates now: the one that the session names, or who was elected since."""
    if succession is None:
        return is_named_coordinator(prepared.opened, str(prepared.account.address))
    return succession.current.member == prepared.directory.own_index


def describe_part(prepared: Prepared) -> str:
    """What a member of a coordinated session registered for, for people."""
    session, directory = prepared.opened.session, prepared.directory
    assert session.coordinated is not None
    role = "coordinator" if is_named_coordinator(prepared.opened, str(prepared.account.address)) else "worker"
    workers = directory.count() - int(directory.index_of_account(session.coordinated.coordinator) is not None)
    return (
        f"{role}; {workers} workers so far, at most {session.coordinated.maximum}; {session.rounds} rounds of "
        f"{session.task}, update {session.update}, rule {session.coordinated.aggregation.rule}"
    )


def forget_stop(journal: Journal) -> None:
    """A coordinator that was stopped and starts again takes back that the session is over, before anybody asks."""
    for said in journal.announcements(0):
        try:
            stopped = bool(said.note) and read_orders(said.note).end == STOPPED
        except PeerError:  # a worker's note, of the time before it was elected
            continue
        if stopped:
            journal.forget_announcement(said.round)


async def gather_quorum(outside: Outside, present: Present, quorum: int, ears: Ears) -> None:
    """Waits until so many members are here, this one counted. NetworkError if they do not come."""

    def say(count: int) -> None:
        ears.observe(f"waiting for members ({count} of {quorum})", 0)
        ears.tell(f"{count} of {quorum} members are here" + (", waiting for the others" if count < quorum else ""))

    with trio.move_on_after(outside.settings.quorum_s) as patience:
        await wait_for_quorum(present, quorum, say)
    if patience.cancelled_caught:
        raise NetworkError(
            f"fewer than {quorum} members came within {outside.settings.quorum_s:g} s: "
            "start the others, check --peers, or wait longer with --quorum-timeout"
        )


class GossipPart:
    """A member among equals."""

    ended = ""

    def __init__(self, outside: Outside, ears: Ears) -> None:
        prepared, session = outside.prepared, outside.prepared.opened.session
        self.outside, self.ears, self.rounds = outside, ears, session.rounds
        earlier = prepared.learner.earlier or NothingEarlier()
        self.ports = Ports(
            outside.peers,
            prepared.directory,
            prepared.learner,
            outside.records,
            DiskJournal(outside.journal, prepared.learner),
            outside.ipfs,
            earlier,
        )
        plan = Plan(prepared.opened.session_id, session.rounds, session.cohort, session.codec, session.snapshot_every)
        deadline = AdaptiveDeadline(session.limits.round_deadline_s)
        limit = session.limits.staleness
        directory, learner = prepared.directory, prepared.learner
        gatherer = Gatherer(outside.peers, directory, outside.board, learner, limit, deadline, earlier)
        self.gossip = Gossip(plan, self.ports, outside.board, gatherer, ears.observe)
        self.stopping = self.gossip.stopping

    @property
    def finished(self) -> int:
        """The last round that is over."""
        return self.gossip.finished

    async def begin(self) -> None:
        """A node that goes on after a crash needs no quorum: the others may have ended."""
        outside = self.outside
        self.gossip.finished = (await self.ports.journal.load()).next_round - 1
        parts = (outside.prepared, outside.journal, outside.snapshots, outside.peers, outside.board)
        joining = Joining(*parts, self.ears.tell)
        if not self.gossip.finished:
            await gather_quorum(outside, self.ports, outside.prepared.opened.session.quorum, self.ears)
            await initial_parameters(outside.prepared, outside.snapshots)
            self.gossip.finished = await joining.late()
        elif outside.resumed:
            self.gossip.finished = max(self.gossip.finished, await joining.after_loss(self.gossip.finished + 1))

    async def run(self) -> int:
        """The rounds that are left."""
        return await self.gossip.run()

    async def linger(self) -> None:
        """Serves slower members, unless we were told to go."""
        if not self.stopping.is_set():
            await linger(self.ports, self.outside.board, self.rounds)


class CoordinatorPart:
    """The coordinator of a coordinated session."""

    def __init__(self, outside: Outside, ears: Ears, coordinated: Coordination) -> None:
        prepared, session = outside.prepared, outside.prepared.opened.session
        self.outside, self.ears = outside, ears
        began = 1 if outside.takeover is None else outside.takeover.succession.current.first
        learner = AveragingLearner(prepared.learner, coordinated.aggregation, session.rounds, began)
        self.ports = coordinated_ports(outside, DiskJournal(outside.journal, learner))
        plan = coordinated_plan(outside, coordinated)
        spread = coordinated.deadline_spread
        collector = Collector(
            plan,
            outside.peers,
            prepared.directory,
            outside.board,
            learner,
            AdaptiveDeadline(session.limits.round_deadline_s, spread, DEADLINE_FLOOR_S),
            Balance(coordinated.balance),
            outside.settings.quorum_s,
            random.Random(outside.peers.peer_id),  # noqa: S311  (jitter)
        )
        wanted = coordinated.convergence
        goal = Goal(wanted.metric, wanted.target, wanted.plateau)
        push = Push(outside.peers, prepared.directory.peers, random.Random(outside.peers.peer_id))  # noqa: S311
        self.life = Coordinator(plan, self.ports, learner, collector, push, goal, ears.observe, self._watch)
        self.life.linger_s = outside.settings.linger_s
        self.life.require_office = None if outside.takeover is None else outside.takeover.require_office
        kept = partial(taken_from, outside.settings.home.data)  # who is elected passes on what it was told itself
        manifest = kept() if prepared.shelf is None else prepared.shelf.manifest()
        self.life.data = "" if manifest is None else f"{manifest.digest.hex()}:{manifest.size}"
        self.stopping = self.life.stopping
        self._below = False

    @property
    def finished(self) -> int:
        """The last round that is over."""
        return self.life.finished

    @property
    def ended(self) -> str:
        """Why there is no further round, where it is not the last."""
        early = self.life.finished < self.life.plan.rounds and self.life.ended != STOPPED
        return self.life.ended if early else ""

    async def begin(self) -> None:
        """Waits for a quorum of workers before the first round; later each round waits for its own."""
        takeover = self.outside.takeover
        if takeover is not None and takeover.succession.current.is_elected:
            await self._be_assembled(takeover)
        self.life.finished = (await self.ports.journal.load()).next_round - 1
        if not self.life.finished:
            await gather_quorum(self.outside, self.ports, self.life.plan.quorum + 1, self.ears)
            await initial_parameters(self.outside.prepared, self.outside.snapshots)

    async def run(self) -> int:
        """The rounds that are left."""
        return await self.life.run()

    async def _be_assembled(self, takeover: Takeover) -> None:
        """Elected, and killed before its disk was a coordinator's: makes it one."""
        term, checkpoint = takeover.succession.current, self.outside.journal.checkpoint()
        if checkpoint is None or checkpoint.round < term.first - 1 or not is_coordinators(checkpoint.path):
            await takeover.assemble(term)

    async def linger(self) -> None:
        """Every worker has the last model already, or had its time."""

    def _watch(self, standing: Standing) -> None:
        """Shows how far the round is; says it aloud when the quorum is missing."""
        here = f"{standing.arrived} updates, quorum {standing.quorum}"
        missing = ", ".join(map(str, standing.waiting_for[:8])) or "nobody"
        state = f"collecting updates ({here}; waiting for {missing}; {standing.left_s:.0f} s left)"
        if standing.below_quorum:
            state = f"below the quorum ({here}): giving up in {standing.left_s:.0f} s"
        self.ears.observe(state, standing.round)
        if standing.below_quorum and not self._below:
            self.ears.tell(
                f"round {standing.round} is below its quorum ({here}): waiting for workers {standing.left_s:.0f} s more"
            )
        self._below = standing.below_quorum


class WorkerPart:
    """A worker of a coordinated session."""

    def __init__(self, outside: Outside, ears: Ears, coordinated: Coordination) -> None:
        prepared = outside.prepared
        rule = coordinated.aggregation
        proximal = rule.proximal if rule.rule == "fedprox" else 0.0
        batches = coordinated.accumulate if prepared.opened.session.update == "gradients" else 0
        learner = WorkingLearner(prepared.learner, proximal, batches, outside.settings.throttle_s)
        chance = random.Random(outside.peers.peer_id)  # noqa: S311  (jitter)

        def coordinator() -> int | None:
            if outside.takeover is not None:
                member = outside.takeover.succession.current.member
                if member >= 0:
                    return member
            return prepared.directory.index_of_account(coordinated.coordinator)

        def boss() -> frozenset[str]:
            index = coordinator()
            return only(None if index is None else prepared.directory.peer_of(index))

        self.life = Worker(
            coordinated_plan(outside, coordinated),
            coordinated_ports(outside, DiskJournal(outside.journal, prepared.learner)),
            learner,
            outside.board,
            coordinator,
            outside.settings.quorum_s,
            Push(outside.peers, boss, chance),
            chance,
            ears.observe,
        )
        if prepared.shelf is not None:
            self.life.supply = OwnersRest()
        elif prepared.opened.session.data.source == "served":
            self.life.supply = served_data(outside, ears)
        self.life.election = outside.takeover
        self.stopping = self.life.stopping
        self.office: CoordinatorPart | None = None  # once it was elected
        self._become = partial(CoordinatorPart, outside, ears, coordinated)
        self._last = partial(own_rounds, outside)
        self._step_down = partial(step_down, outside.journal, prepared.learner, tell=ears.tell)

    @property
    def finished(self) -> int:
        """The last round that is over."""
        return self.life.finished if self.office is None else self.office.finished

    @property
    def ended(self) -> str:
        """Why the coordinator ended the session."""
        return self.life.ended if self.office is None else self.office.ended

    async def begin(self) -> None:
        """A worker starts from whatever model the coordinator announces; one that was the coordinator steps down."""
        if self.life.election is not None:
            await self._step_down(await trio.to_thread.run_sync(self._last))

    async def run(self) -> int:
        """The rounds until the coordinator says the end; if this member is elected, those that it coordinates."""
        finished = await self.life.run()
        if not self.life.elected:
            return finished
        self.office = self._become()
        self.office.life.stopping = self.stopping
        self.office.stopping = self.stopping
        await self.office.begin()
        return await self.office.run()

    async def linger(self) -> None:
        """The coordinator has what this worker sent: nobody needs it any more."""


def own_rounds(outside: Outside) -> int:
    """The last round that this account recorded; synchronous. Raises LedgerError."""
    opened = outside.prepared.opened
    return opened.ledger.head(opened.session_id, str(outside.prepared.account.address)).next_round - 1


def served_data(outside: Outside, ears: Ears) -> ServedData:
    """A learner's split, on its way from the session's own coordinator."""
    prepared = outside.prepared
    learner = prepared.learner
    coordinated, directory = prepared.opened.session.coordinated, prepared.directory
    assert coordinated is not None
    account = coordinated.coordinator
    place = place_of(account, [seat.account for seat in directory.seats], directory.own_index)

    def owner() -> str | None:
        index = directory.index_of_account(account)
        return None if index is None else directory.peer_of(index)

    return ServedData(
        outside.settings.home.data,
        prepared.opened.session.data,
        place if outside.settings.share is None else outside.settings.share,
        learner,
        partial(try_one_step, learner.learner, device=learner.device),
        outside.peers.fetch_to,
        owner,
        ears.tell,
    )


def coordinated_ports(outside: Outside, journal: DiskJournal) -> CoordinatedPorts:
    """The real parts as coordinated rounds see them."""
    return CoordinatedPorts(outside.peers, outside.prepared.directory, outside.records, journal, outside.ipfs)


def coordinated_plan(outside: Outside, coordinated: Coordination) -> CoordinatedPlan:
    """What the session file says about coordinated rounds."""
    session = outside.prepared.opened.session
    return CoordinatedPlan(
        outside.prepared.opened.session_id,
        session.rounds,
        session.quorum,
        session.codec,
        session.snapshot_every,
        session.limits.staleness if coordinated.late == "weight" else 0,
        coordinated.maximum,
        outside.prepared.learner.learner.task.batch_size,
    )
