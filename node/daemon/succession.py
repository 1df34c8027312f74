"""Elections on the ledger: who coordinates, how a worker takes over, how a coordinator makes sure that it still is one.

The rules are `node.session.succession`'s; here are the chain, the disk and the snapshots that they need.
"""

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ledger import History, HistoryError, LedgerError
from node.agreement import OpenSession
from node.config import Coordination
from node.daemon.averaging import AveragingLearner
from node.daemon.directory import LedgerDirectory
from node.daemon.journal import Journal
from node.daemon.learner import TorchLearner
from node.daemon.ports import LedgerRecords
from node.daemon.recording import Recorder
from node.daemon.resume import keep_checkpoint, known_snapshots, read_mixed, used_updates
from node.errors import HomeError, NetworkError, StorageError, UpdateError
from node.messages import Mix
from node.session.ports import Payload
from node.session.succession import Recorded, Term, place_after, terms
from node.storage import Snapshots

log = logging.getLogger(__name__)
CONFIRM_S = 120.0  # for the record of a takeover
PAUSE_S = 2.0


@dataclass
class LedgerSuccession:
    """Implements `node.session.succession.Succession`."""

    opened: OpenSession
    coordinated: Coordination
    cache: Path
    current: Term = field(default_factory=lambda: Term(-1))  # nobody, before the session's own coordinator has joined
    _reading: trio.Lock = field(default_factory=trio.Lock)

    @property
    def wait_s(self) -> float:
        """Of silence, before the first in the ledger's order may take over."""
        return self.coordinated.election_s

    async def refresh(self) -> bool:
        """Reads the ledger again; False where it did not answer."""
        try:
            async with self._reading:  # two would find the cache locked, and take it for damaged
                self.current = await trio.to_thread.run_sync(self._read)
        except LedgerError as error:
            log.warning("the ledger does not say who coordinates: %s", error)
            return False
        return True

    def _read(self) -> Term:
        try:
            return self._newest()
        except HistoryError as error:
            if not isinstance(error.__cause__, sqlite3.Error) or isinstance(error.__cause__, sqlite3.IntegrityError):
                raise  # the chain's fault: it serves an event twice, for one
            log.warning("%s is damaged, and made again from the ledger: %s", self.cache, error.__cause__)
        for part in self.cache.parent.glob(f"{self.cache.name}*"):
            part.unlink(missing_ok=True)
        return self._newest()

    def _newest(self) -> Term:
        with History(self.opened.ledger, self.opened.session_id, self.cache) as history:
            return read_terms(history, self.coordinated)[-1]


def first_of_office(succession: LedgerSuccession | None) -> int:
    """The first round of whoever coordinates now; in a session that elects nobody that is the first of all."""
    return 1 if succession is None else succession.current.first


def read_terms(history: History, coordinated: Coordination) -> list[Term]:
    """The session's coordinators by the ledger, one after another; member −1 while the first has not joined."""
    history.follow()
    account = coordinated.coordinator.lower()
    named = next((one.index for one in history.member_entries() if one.account.lower() == account), -1)
    return terms(named, (Recorded(*row) for row in history.in_order()), coordinated.election_s)


@dataclass
class Takeover:
    """Implements `node.session.coordinated.Election`."""

    succession: LedgerSuccession
    directory: LedgerDirectory
    journal: Journal
    records: LedgerRecords
    recorder: Recorder
    snapshots: Snapshots
    learner: TorchLearner
    tell: Callable[[str], None]

    @property
    def wait_s(self) -> float:
        """Of silence, before the first in the ledger's order may take over."""
        return self.succession.wait_s

    def place(self, term: Term) -> int:
        """How many members come before this one."""
        seats = self.directory.seats
        return place_after(term, self.directory.own_index, [i for i, seat in enumerate(seats) if seat.active])

    async def take_over(self, term: Term, model: Payload | None, pending: Mix | None) -> bool | None:
        """Records the last model again; True if this member coordinates now, False if not.

        None where it can't: without the model, or with a record of that round already.
        """
        round, own = term.newest + 1, self.directory.own_index
        if await trio.to_thread.run_sync(self._is_used_up, round, term.digest):
            log.warning("no election of this member: it has recorded another update of round %d", round)
            return None
        try:
            payload = model if model is not None else await self._model(term)
        except (StorageError, LedgerError) as error:
            log.warning("no election of this member: %s", error)
            return None
        try:
            await self.learner.run(self.learner.take_over, payload)
        except UpdateError as error:
            log.warning("no election of this member: %s", error)
            return None
        kept = await self.learner.run(self.learner.exact, self.learner.flat, {})
        if kept.digest != term.digest:
            log.warning("no election of this member: it has another model than that of round %d", term.newest)
            return None
        await trio.to_thread.run_sync(self.journal.save_update, round, kept.payload, kept.digest)
        await self.records.commit(round, term.digest, pending)
        confirmed = await self.recorder.flush(CONFIRM_S)
        while not (await self.succession.refresh() and confirmed):
            confirmed = await self.recorder.flush(CONFIRM_S)
        if self.succession.current.member != own:
            await keep_checkpoint(self.journal, round, self.learner.checkpoint())
            self.tell(f"member {self.succession.current.member} coordinates from round {round} on")
            return False
        await self.assemble(self.succession.current)
        self.tell(f"member {term.member} is gone: this member coordinates from round {round} on")
        return True

    def _is_used_up(self, round: int, digest: bytes) -> bool:
        """Whether a round has a record of ours, or will have, that is none of this model. Rounds only go up."""
        last = self.journal.last_round()
        return last > round or (last == round and self.journal.promised(round) != digest)

    async def assemble(self, term: Term) -> None:
        """The disk of a coordinator whose first round is the term's: the last model, and what went into it."""
        found = await trio.to_thread.run_sync(self.journal.update, term.first)
        payload = found[0] if found is not None and found[1] == term.digest else await self._model(term)
        await self.learner.run(self.learner.take_over, payload)
        await trio.to_thread.run_sync(self.journal.save_recorded, term.first, term.digest)
        rounds = self.succession.opened.session.rounds
        used = await trio.to_thread.run_sync(self._used)
        learner = AveragingLearner(self.learner, self.succession.coordinated.aggregation, rounds, went_in=used)
        await keep_checkpoint(self.journal, term.first - 1, learner.checkpoint())

    async def _model(self, term: Term) -> Payload:
        """The last model from a snapshot that anybody recorded of it."""
        history = await trio.to_thread.run_sync(self._snapshots)
        for known in history:
            if known.mixed_hash == term.digest:
                try:
                    return await read_mixed(self.snapshots, known, self.learner.learner.spec.payload_size)
                except StorageError as error:
                    log.info("snapshot %s: %s", known.cid, error)
        raise StorageError(f"the model of round {term.newest} is in no snapshot that is to be had")

    def _history(self) -> History:
        return History(self.succession.opened.ledger, self.succession.opened.session_id)

    def _snapshots(self) -> list:  # type: ignore[type-arg]
        with self._history() as history:
            return known_snapshots(history)

    def _used(self) -> dict[int, int]:
        """By member, the newest round of which an update went into a recorded model."""
        with self._history() as history:
            return used_updates(history)

    async def require_office(self) -> None:
        """Returns once all own records are on the chain, and nobody took over. NetworkError if somebody did."""
        while not (await self.recorder.flush(CONFIRM_S) and await self.succession.refresh()):
            await trio.sleep(PAUSE_S)
        term, own = self.succession.current, self.directory.own_index
        if term.member != own:
            raise NetworkError(
                f"member {term.member} coordinates since round {term.first}, because this one was silent for "
                f"{self.wait_s:g} s: start this node again, it goes on as a worker"
            )


async def step_down(journal: Journal, learner: TorchLearner, last: int, tell: Callable[[str], None]) -> None:
    """Makes the disk of a former coordinator that of a worker, which takes over whatever model comes next."""
    checkpoint = journal.checkpoint()
    if checkpoint is not None:
        try:
            await learner.run(learner.restore, checkpoint.path)
        except HomeError:
            newest = journal.newest_update()  # a model whose record may be on its way: that round is used up
            last = max(last, 0 if newest is None else newest[0])
            await keep_checkpoint(journal, last, learner.checkpoint())
            tell("this member was the coordinator, and is a worker now: another one took over")
