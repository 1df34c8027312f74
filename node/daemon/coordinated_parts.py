"""The two lives in a session with a coordinator: the coordinator's, and a worker's."""

import random
from functools import partial

import trio

from node.config import Coordination
from node.daemon.admission import place_of
from node.daemon.averaging import AveragingLearner, WorkingLearner, is_coordinators
from node.daemon.known_work import known_work
from node.daemon.outside import DEADLINE_FLOOR_S, Ears, Outside, gather_quorum, own_rounds
from node.daemon.ports import DiskJournal
from node.daemon.prepare import initial_parameters, try_one_step
from node.daemon.served_data import OwnersRest, ServedData, taken_from
from node.daemon.succession import Takeover, first_of_office, step_down
from node.session.balance import Balance
from node.session.collect import Collector, Standing
from node.session.convergence import Goal
from node.session.coordinated import CoordinatedPlan, CoordinatedPorts
from node.session.coordinator import STOPPED, Coordinator
from node.session.deadline import AdaptiveDeadline
from node.session.push import Push, only
from node.session.worker import Worker
from node.wishes import quorum_warning


class CoordinatorPart:
    """The coordinator of a coordinated session."""

    def __init__(self, outside: Outside, ears: Ears, coordinated: Coordination) -> None:
        prepared, session = outside.prepared, outside.prepared.opened.session
        self.outside, self.ears = outside, ears
        began = first_of_office(None if outside.takeover is None else outside.takeover.succession)
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
        served = outside.settings.home.data if prepared.shelf is None else prepared.shelf.directory
        collector.most = known_work(prepared, coordinated, served, manifest)
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
        if warning := quorum_warning(self.outside.prepared.opened.session):
            self.ears.tell(warning)
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
        self._tell = ears.tell
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
        self._tell(f"waiting for a model, without a coordinator for {self.life.patience_s:g} s at most")

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
