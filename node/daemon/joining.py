"""Where a member begins whom the others are ahead of: one that comes late, or one that lost its disk and went on."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import trio

from ledger import History, LedgerError
from node.daemon.journal import Journal
from node.daemon.ports import NetworkPeers
from node.daemon.prepare import Prepared
from node.daemon.resume import Known, Tell, keep_checkpoint, known_snapshots, read_mixed
from node.errors import StorageError, UpdateError
from node.learning import parameters
from node.session.board import Board
from node.session.pace import VOICES
from node.storage import Snapshots

log = logging.getLogger(__name__)
HEAR_S = 5.0  # for word from those who are connected
LONGEST_S = 60.0  # the same, where the ledger says that there is something to be heard
LOOKED_AT = 64  # members, at most: connected ones first
LOOK_S = 0.2
SNAPSHOT_S = 15.0  # for one snapshot of another member


@dataclass(frozen=True, slots=True)
class Joining:
    """The parts of a node that is about to begin its first round since its disk was empty."""

    prepared: Prepared
    journal: Journal
    snapshots: Snapshots
    peers: NetworkPeers
    board: Board
    tell: Tell

    async def late(self, promised: bool = False) -> int:
        """The last round that is left out: 0, unless the others would refuse what is made in the first rounds.

        Or unless they have announcements of this node, and the disk knows of none (`promised`): what the records of
        them waited on is lost, and other updates of those rounds would contradict them.

        Starts from the newest snapshot of another member that does best on our own validation data.
        """
        others = await self.position()
        announced = 0 if promised else self.peers.own_round()
        if announced:
            self.tell(f"this node announced rounds up to {announced} before it lost its disk: they are left out")
            if (private := self.prepared.learner.private) is not None:
                await trio.to_thread.run_sync(private.spending.catch_up, announced, private.way.release)
        position = max(others, announced)
        if not announced and position <= 1 + self.prepared.opened.session.limits.staleness:
            return 0
        source = await self._best()
        await keep_checkpoint(self.journal, position, self.prepared.learner.checkpoint())
        self.tell(f"the others are in round {others}: taking part from round {position + 1}, starting from {source}")
        return position

    async def after_loss(self, next_round: int) -> int:
        """The last round that is left out so that none is announced twice: a lost disk may have known later ones."""
        others = await self.position()
        position = max(others, self.peers.own_round())
        if position < next_round:
            return 0
        await keep_checkpoint(self.journal, position, self.prepared.learner.checkpoint())
        self.tell(
            f"the others are in round {others}: going on with round {position + 1}, since what this node announced "
            f"before it lost its state is not known; rounds {next_round} to {position} are left out"
        )
        return position

    async def position(self) -> int:
        """The round that more than half of the connected members have reached; who says nothing is in round 0.

        At least two members have reached it, connected or not, where there are as many: one liar carries nobody to the
        last round. The ledger says it too, some records late: where it knows of rounds, busy members get longer to
        answer, and its word counts for those who don't.
        """
        if self.prepared.directory.count() == 1:
            return 0
        with trio.move_on_after(HEAR_S):
            await self._hear()
        recorded = await self._recorded()
        here = self._connected().values()
        known = sum(member in recorded for member in here)
        heard = sum(self._said(member) > 0 for member in here)
        if known and 2 * heard < len(here):
            log.warning("%d members have recorded rounds, and %d answer: asking on", known, heard)
            with trio.move_on_after(LONGEST_S - HEAR_S):
                await self._hear(known)
            recorded = await self._recorded()
        return self._reached(recorded)

    def _reached(self, recorded: Mapping[int, int]) -> int:
        rounds = {member: max(self._said(member), recorded.get(member, 0)) for member in self._others()}
        here = [rounds[member] for member in self._connected().values()]
        return min(statistics.median_low(here), *sorted(rounds.values())[-VOICES:]) if here else 0

    async def _hear(self, enough: int | None = None) -> None:
        """Returns when `enough` connected members have said their newest round; None: all, and as many as it takes."""
        async with trio.open_nursery() as nursery:
            asked: set[str] = set()

            async def ask(peer: str) -> None:
                await self.peers.ask(peer)
                asked.discard(peer)  # it said nothing: again

            while True:
                here = self._connected()
                silent = [peer for peer, member in here.items() if not self._said(member)]
                for peer in set(silent) - asked:
                    asked.add(peer)
                    nursery.start_soon(ask, peer)
                heard = len(here) - len(silent)
                if here and (self._is_heard_out(silent) if enough is None else heard >= min(enough, len(here))):
                    break
                await trio.sleep(LOOK_S)
            nursery.cancel_scope.cancel()

    def _is_heard_out(self, silent: Sequence[str]) -> bool:
        others = self._others()
        return not silent and sum(self._said(member) > 0 for member in others) >= min(VOICES, len(others))

    async def _recorded(self) -> dict[int, int]:
        """By member, the last of the session's rounds that the ledger has of it; without those that it has none of."""
        opened, seats = self.prepared.opened, self.prepared.directory.seats
        asked = list(dict.fromkeys([*self._connected().values(), *self._others()]))[:LOOKED_AT]

        def read() -> dict[int, int]:
            return {m: opened.ledger.head(opened.session_id, seats[m].account).next_round - 1 for m in asked}

        try:
            found = await trio.to_thread.run_sync(read, abandon_on_cancel=True)  # type: ignore[call-arg]
        except LedgerError as error:
            log.warning("the ledger does not say now how far the others are: %s", error)
            return {}
        return {member: round for member, round in found.items() if 0 < round <= opened.session.rounds}

    def _said(self, member: int) -> int:
        """The newest of the session's rounds that a member announced; 0 if none."""
        newest = self.board.newest_within(member, 1, self.prepared.opened.session.rounds)
        return 0 if newest is None else newest.round

    def _others(self) -> list[int]:
        """The active members but this one."""
        directory = self.prepared.directory
        active = (member for member in range(directory.count()) if directory.peer_of(member) is not None)
        return [member for member in active if member != directory.own_index]

    def _connected(self) -> dict[str, int]:
        """Peer id and index of the members that are connected: of many, some at random (Python salts its hashes)."""
        found = {peer: self.prepared.directory.index_of(peer) for peer in sorted(self.peers.connected(), key=hash)}
        members = {peer: member for peer, member in found.items() if member is not None}
        return dict(islice(members.items(), LOOKED_AT))

    async def _best(self) -> str:
        """Where the parameters come from that the learner has now."""
        learner = self.prepared.learner
        best, source = learner.flat, "the session's initial parameters"
        loss = await learner.run(self._loss)
        for known in await self._candidates():
            try:
                with trio.fail_after(SNAPSHOT_S):
                    payload = await read_mixed(self.snapshots, known, learner.learner.spec.payload_size)
                learner.flat = parameters.decode(learner.learner.spec, payload)
            except (StorageError, UpdateError, trio.TooSlowError) as error:
                log.warning("the snapshot of member %d, round %d is left out: %s", known.member, known.round, error)
                continue
            seen = await learner.run(self._loss)
            if seen < loss:
                best, loss = learner.flat, seen
                source = f"snapshot {known.cid} of member {known.member}, round {known.round}"
        learner.flat = best
        return source

    def _loss(self) -> float:
        """Of the learner's parameters on its own validation data; a nan is never better than anything."""
        loss = self.prepared.learner.measure()["validation_loss"]
        return loss if loss == loss else float("inf")

    async def _candidates(self) -> Sequence[Known]:
        """The newest snapshot of each other member, newest first, as many as a cohort has."""
        opened, others = self.prepared.opened, set(self._others())

        def read() -> list[Known]:
            with History(opened.ledger, opened.session_id) as history:
                return known_snapshots(history)

        try:
            known = await trio.to_thread.run_sync(read)
        except LedgerError as error:
            log.warning("the ledger names no snapshots now: %s", error)
            return []
        newest: dict[int, Known] = {}
        for one in known:
            if one.member in others and one.round <= opened.session.rounds:
                newest.setdefault(one.member, one)
        return list(newest.values())[: opened.session.cohort]
