"""A member's life among equals."""

import trio

from node.daemon.joining import Joining
from node.daemon.outside import Ears, Outside, gather_quorum
from node.daemon.ports import DiskJournal
from node.daemon.prepare import initial_parameters
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from node.session.gossip import Gossip, Plan, Ports, linger
from node.session.pace import Pace
from node.session.ports import NothingEarlier


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
        pulled = (deadline, earlier, prepared.held)
        gatherer = Gatherer(outside.peers, directory, outside.board, learner, limit, *pulled)
        pace = Pace(outside.peers, directory, outside.board, limit)
        self.gossip = Gossip(plan, self.ports, outside.board, gatherer, pace, ears.observe)
        self.stopping = self.gossip.stopping

    @property
    def finished(self) -> int:
        """The last round that is over."""
        return self.gossip.finished

    async def begin(self) -> None:
        """A node that goes on after a crash needs no quorum, in its first round neither: the others may have ended."""
        outside = self.outside
        progress = await self.ports.journal.load()
        self.gossip.finished = progress.next_round - 1
        parts = (outside.prepared, outside.journal, outside.snapshots, outside.peers, outside.board)
        joining = Joining(*parts, self.ears.tell)
        if not self.gossip.finished:
            if progress.promised is None:
                await gather_quorum(outside, self.ports, outside.prepared.opened.session.quorum, self.ears)
            await initial_parameters(outside.prepared, outside.snapshots)
            self.gossip.finished = await joining.late(progress.promised is not None)
        if outside.resumed:
            self.gossip.finished = max(self.gossip.finished, await joining.after_loss(self.gossip.finished + 1))
            await trio.to_thread.run_sync(outside.journal.end_loss)

    async def run(self) -> int:
        """The rounds that are left."""
        return await self.gossip.run()

    async def linger(self) -> None:
        """Serves slower members, unless we were told to go."""
        if not self.stopping.is_set():
            await linger(self.ports, self.outside.board, self.rounds)
