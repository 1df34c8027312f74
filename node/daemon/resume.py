"""Going on without this node's own disk, from the ledger's head and a snapshot. Knows no rounds in progress.

What the ledger allows: a member's rounds only go up, and what is recorded stays. So a node that lost its disk goes on
with the round after its last record; or with that very round, if training it again gives the update that it committed
to.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from ledger import History, Step
from node.agreement import OpenSession
from node.config import Meeting
from node.daemon.averaging import AveragingLearner
from node.daemon.journal import Journal
from node.daemon.prepare import Prepared, initial_parameters
from node.daemon.settings import StartSettings
from node.errors import ContentMissing, HomeError, StorageError, UpdateError
from node.learning import parameters
from node.learning.aggregation import has_moments
from node.messages import ABSENT
from node.storage import Snapshots, directory_cid

MIXED = "mixed.safetensors"
PATIENCE_S = 30.0  # for peers, where there is a way to find some
SEARCH_S = 60.0  # for one snapshot
RETRY_S = 1.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Known:
    """A mix of a member that the ledger names a snapshot of."""

    member: int
    round: int
    cid: str
    mixed_hash: bytes


@dataclass(frozen=True, slots=True)
class Past:
    """What the ledger knows of a member: the next round that it takes, the last update, snapshots newest first."""

    next_round: int
    committed: bytes | None  # the update of round next_round − 1
    snapshots: tuple[Known, ...]
    used: Mapping[int, int]  # by member, the newest round of which an update went into a coordinator's mix


@dataclass(frozen=True, slots=True)
class Found:
    """Parameters to go on from: of the end of a round (0: the initial ones), and where they came from."""

    round: int
    payload: bytes
    source: str


def patience(settings: StartSettings, peers: Meeting) -> float:
    """Seconds to wait for somebody who has a snapshot: none where nobody could come."""
    ways = (*settings.peers, *settings.trackers, *peers.bootstrap, *peers.trackers)
    return PATIENCE_S if ways or settings.mdns or settings.dht else 0.0


def known_snapshots(history: History) -> list[Known]:
    """All snapshots that the ledger names, newest round first."""
    known = []
    for step in history.steps():
        if step.mix is not None and step.mix.snapshot and step.fault is None:
            known.append(Known(step.member, step.round, directory_cid(step.mix.snapshot), step.mix.mixed_hash))
    return sorted(known, key=lambda one: one.round, reverse=True)


def used_updates(history: History) -> dict[int, int]:
    """By member, the newest round of which an update of it went into a coordinator's recorded mix."""
    used: dict[int, int] = {}
    for step in history.steps():
        if step.mix is None or not is_coordinators_row(step):
            continue
        for entry in step.mix.inputs:
            if entry.lag != ABSENT and entry.member != step.member:
                used[entry.member] = max(step.round - entry.lag, used.get(entry.member, 0))
    return used


def is_coordinators_row(step: Step) -> bool:
    """Whether a mix is one that only a coordinator makes: of no later round than its own."""
    return step.mix is not None and all(entry.lag >= 0 or entry.lag == ABSENT for entry in step.mix.inputs)


def read_past(opened: OpenSession, account: str, member: int) -> Past | None:
    """What the ledger knows of a member, None before its first record; synchronous. Raises LedgerError."""
    head = opened.ledger.head(opened.session_id, account)
    with History(opened.ledger, opened.session_id) as history:
        if history.rounds() is None:
            return None
        mine = [known for known in known_snapshots(history) if known.member == member]
        used = used_updates(history)
        committed = history.update_hash(member, head.next_round - 1)
    if committed is None and not mine:
        return None
    return Past(head.next_round, committed, tuple(mine), used)


async def read_mixed(snapshots: Snapshots, known: Known, limit: int) -> bytes:
    """The mixed parameters of a snapshot, as the ledger has their hash. Raises ContentMissing or StorageError."""
    payload = await snapshots.read(known.cid, MIXED, limit)
    if hashlib.sha256(payload).digest() != known.mixed_hash:
        raise StorageError(f"snapshot {known.cid} holds other parameters than member {known.member} recorded")
    return payload


@dataclass(frozen=True, slots=True)
class Resumption:
    """The parts of a node that lost its disk."""

    prepared: Prepared
    journal: Journal
    snapshots: Snapshots
    older: bool  # whether a snapshot older than the newest will do
    patience_s: float  # for peers to come who have one
    office: int | None  # the first round in which this member coordinates; None: it does not
    tell: Tell

    async def run(self) -> bool:
        """Writes the journal that this home would have, if its account has records and the home has no journal.

        Whether it did, or had done so when it was killed before the rounds went on.
        Raises StorageError if what is needed is not to be had, HomeError for a journal that is an
        older copy, LedgerError.
        """
        prepared = self.prepared
        if self.journal.checkpoint() is not None or (
            self.journal.newest_update() is not None and not self.journal.in_loss()
        ):  # in a loss the checkpoint comes last: killed before it, all of this is done again
            await self._require_newest()
            return self.journal.in_loss()
        account, member = str(prepared.account.address), prepared.directory.own_index
        past = await trio.to_thread.run_sync(read_past, prepared.opened, account, member)
        if past is None:
            return False
        self.tell(f"this home is empty, but member {member} has recorded {past.next_round - 1} rounds: going on")
        if prepared.opened.session.coordinated is None:
            await trio.to_thread.run_sync(self.journal.begin_loss)
            await self._as_equal(past)
        elif self.office is not None and (self.office == 1 or past.next_round - 1 > self.office):
            await self._as_coordinator(past)
        else:  # a worker takes over whatever model comes next; who was just elected is assembled (succession.py)
            await keep_checkpoint(self.journal, past.next_round - 1, prepared.learner.checkpoint())
        return True

    async def _require_newest(self) -> None:
        """A restored backup has forgotten rounds that were announced: to go on from it would contradict them."""
        opened, account = self.prepared.opened, str(self.prepared.account.address)
        head = await trio.to_thread.run_sync(opened.ledger.head, opened.session_id, account)
        recorded, known = head.next_round - 1, self.journal.last_round()
        if recorded > known:
            state = self.journal.directory
            raise HomeError(
                f"{state} ends with round {known}, but {account} has recorded {recorded}: it is an older copy, and "
                "going on from it would contradict what was announced; move "
                f"{state.name}/ and outbox.sqlite* out of the home and start again: it goes on from the ledger"
            )

    async def _as_equal(self, past: Past) -> None:
        found = await self._find(past.snapshots)
        learner, last = self.prepared.learner, past.next_round - 1
        learner.flat = parameters.decode(learner.learner.spec, found.payload)
        repeatable = learner.private is None  # noise is drawn anew, and would be paid for again
        if found.round == last - 1 and past.committed is not None and repeatable:
            residual = learner.residual
            trained = await learner.train(last)
            learner.residual = residual
            if trained.digest == past.committed:
                self.journal.save_recorded(last, trained.digest)
                self.journal.save_update(last, trained.payload, trained.digest)
                await keep_checkpoint(self.journal, found.round, learner.checkpoint())
                self.tell(
                    f"round {last}, trained again from {found.source}, gives the recorded update: nothing is lost"
                )
                return
        await keep_checkpoint(self.journal, last, learner.checkpoint())
        rounds = f"rounds {found.round + 1} to {last}" if found.round + 1 < last else f"round {last}"
        lost = "nothing is lost" if found.round == last else f"what was learned in {rounds} is lost"
        self.tell(f"going on with round {past.next_round} from {found.source}: {lost}")

    async def _as_coordinator(self, past: Past) -> None:
        """The chain of models must have no gap: each model is the mix of the round before."""
        session, last = self.prepared.opened.session, past.next_round - 1
        assert session.coordinated is not None
        rule = session.coordinated.aggregation
        if has_moments(rule):
            raise StorageError(
                f"a coordinator with the rule {rule.rule} goes on only with its optimizer's state, which was in this "
                "home's state/: restore that directory from a backup"
            )
        found = await self._find(past.snapshots)
        if found.round < last - 1:
            raise StorageError(
                f"the newest model in a snapshot is that of round {found.round}, recorded are {last} rounds: workers "
                "and audit would refuse it; restore state/ from a backup"
            )
        base = self.prepared.learner
        base.flat = parameters.decode(base.learner.spec, found.payload)
        if found.round < last and past.committed is not None:
            self.journal.save_recorded(last, past.committed)
        began = self.office or 1
        learner = AveragingLearner(
            base, rule, session.rounds, began, went_in=dict(past.used)
        )  # no update goes in twice
        await keep_checkpoint(self.journal, found.round, learner.checkpoint())
        self.tell(f"going on with round {found.round + 1} from {found.source}: nothing is lost")

    async def _find(self, recorded: Sequence[Known]) -> Found:
        """The newest parameters that can be had."""
        limit = self.prepared.learner.learner.spec.payload_size
        for known in recorded:
            try:
                payload = await self._read(known, limit)
                parameters.decode(self.prepared.learner.learner.spec, payload)
            except (StorageError, UpdateError) as error:
                if not self.older:
                    raise StorageError(
                        f"snapshot {known.cid} of round {known.round} is needed to go on, and not to be had ({error}): "
                        f"`fl-node snapshot add FOLDER --home {self.prepared_home()}` if you have its files, "
                        "--ipfs KUBO if a daemon has it, --peers if a member has it, or --older-snapshot for less"
                    ) from error
                self.tell(f"the snapshot of round {known.round} is not to be had: {error}")
            else:
                return Found(known.round, payload, f"snapshot {known.cid} of round {known.round}")
        await initial_parameters(self.prepared, self.snapshots)
        learner = self.prepared.learner
        return Found(0, parameters.encode(learner.learner.spec, learner.flat), "the session's initial parameters")

    async def _read(self, known: Known, limit: int) -> bytes:
        """The mixed parameters of a snapshot, tried again while nobody who is connected has it."""
        until = trio.current_time() + self.patience_s
        while True:
            try:
                with trio.fail_after(SEARCH_S):  # a daemon asks the whole world, for longer than anybody wants to wait
                    return await read_mixed(self.snapshots, known, limit)
            except trio.TooSlowError as error:
                raise ContentMissing(f"nobody gave it within {SEARCH_S:g} s") from error
            except ContentMissing:
                if trio.current_time() > until:
                    raise
            await trio.sleep(RETRY_S)

    def prepared_home(self) -> str:
        """The home, as the operator named it."""
        return str(self.journal.directory.parent)


async def keep_checkpoint(journal: Journal, round: int, state: bytes) -> None:
    """The checkpoint after which the rounds go on; its mix is on the ledger, or will never be."""
    await trio.to_thread.run_sync(journal.save_mixless, round, state)
