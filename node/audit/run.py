"""A whole session audited: hash chains, identities, cohorts, rows, and every mixing step that has its snapshots.

Memory is bounded by one mixing step: what is known of the run lies in the history's file.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import trio

from ledger import BrokenChain, History, MemberEntry
from ledger import Step as LedgerStep
from node.agreement import OpenSession, open_session
from node.audit.coordinated import MOMENTS, CoordinatedCheck, CoordinatedRules, StepFiles
from node.audit.inputs import Ledger, check_members, check_recorded
from node.audit.members import check_evidence, check_identities, excuse
from node.audit.payloads import MIXED, Payloads
from node.audit.privacy import BudgetCheck
from node.audit.records import broken_chain, node_step
from node.audit.replay import Fault, Rules, Step, check_row, replay
from node.audit.report import AuditReport, Coverage, Gap
from node.audit.snapshots import SnapshotShelf, is_daemon, open_shelf, spec_of_payload
from node.errors import ConfigError
from node.learning.codecs import Codec, codec
from node.learning.parameters import ParameterSpec
from node.session.coordinated import MODEL_CODEC
from node.session.succession import Recorded, terms
from node.storage import read_key

LARGEST_ROUND = 2**31
HEADER_LIMIT = 4096  # bytes of a header beyond the numbers


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What to audit, and where snapshots may be found."""

    session_path: Path
    rpc: str | None = None
    ipfs: tuple[str, ...] = ()
    first: int = 1
    last: int | None = None
    session_key: Path | None = None  # of a sealed session; without it no snapshot is read


async def audit_session(settings: AuditSettings, tell: Callable[[str], None]) -> AuditReport:
    """Audits a session. Raises NodeError or LedgerError where it cannot be checked."""
    opened = await trio.to_thread.run_sync(open_session, settings.session_path, settings.rpc)
    return await audit_opened(opened, settings, tell)


async def audit_opened(opened: OpenSession, settings: AuditSettings, tell: Callable[[str], None]) -> AuditReport:
    """The audit of a session that was checked against the ledger already."""
    if settings.last is not None and settings.first > settings.last:
        raise ConfigError(f"rounds {settings.first} to {settings.last} are no range: exchange --from and --to")
    started = time.perf_counter()
    report = AuditReport(f"{opened.session_id:016x}", opened.session.sealed is not None)

    def reading(done: int, total: int) -> None:
        tell(f"reading the ledger: block {done} of {total}")

    with History(opened.ledger, opened.session_id, progress=reading) as history:
        async with shelf_of(opened, settings) as shelf:
            try:
                await _Audit(opened, history, shelf, report, tell).run(settings)
            except BrokenChain as error:
                report.blame(broken_chain(error))
    report.seconds = time.perf_counter() - started
    return report


def shelf_of(opened: OpenSession, settings: AuditSettings) -> AbstractAsyncContextManager[SnapshotShelf]:
    """Where the audit finds snapshots; those of a sealed session are of no use without its key."""
    sealed, limit = opened.session.sealed, opened.session.limits.payload_bytes
    if sealed is None and settings.session_key is not None:
        name = opened.session.name
        raise ConfigError(f"--session-key {settings.session_key}: session {name} is not sealed: leave it out")
    key = None
    if sealed is not None and settings.session_key is not None:
        key = read_key(settings.session_key, sealed.key_hash)
    readable = sealed is None or key is not None
    return open_shelf(settings.ipfs, settings.session_path.resolve().parent if readable else None, limit, key)


class _Audit:
    """One audit in progress."""

    def __init__(
        self,
        opened: OpenSession,
        history: History,
        shelf: SnapshotShelf,
        report: AuditReport,
        tell: Callable[[str], None],
    ) -> None:
        session = opened.session
        self.opened, self.history, self.report, self.tell = opened, history, report, tell
        self.rules = Rules(opened.session_id, session.cohort, session.limits.staleness)
        self.codec = codec(session.codec)
        self.spec: ParameterSpec | None = None
        self.payloads = Payloads(history, shelf, report, self._codec_of)
        self.coordinated: CoordinatedCheck | None = None
        self.privacy: BudgetCheck | None = None
        self.ledger = Ledger((), session.rounds, history.update_block, history.has_passed)
        self.equivocal: set[tuple[int, int]] = set()  # (member, round) of which there were two updates, as is proved

    async def run(self, settings: AuditSettings) -> None:
        """Identities, then every step by round and member."""
        self.report.records = self.history.verify()
        self._require_rounds(settings)
        members = self.history.verified_members()
        self.report.members = len(members)
        joined = [member.joined_block for member in members]
        rounds = self.opened.session.rounds
        self.ledger = Ledger(joined, rounds, self.history.update_block, self.history.has_passed)
        for wrong in check_identities(members):
            self.report.blame(wrong)
        self._take_evidence(members, settings)
        self.coordinated = self._coordinated_check(members)
        if budget := self.opened.session.privacy:
            self.report.budget = budget.epsilon, budget.delta
            self.privacy = BudgetCheck(
                budget.epsilon, None if self.coordinated is None else self.coordinated.rules.coordinators[0].member
            )
        before: dict[int, LedgerStep] = {}  # member -> its last one so far
        first = 0 if settings.first == 1 else settings.first  # a round 0 is none of the session's: it is blamed
        for recorded in self.history.steps((first, settings.last or LARGEST_ROUND)):
            self.tell(f"auditing round {recorded.round}, member {recorded.member}")
            last = before.get(recorded.member)
            self._note_gaps(recorded, last.round if last else None)
            before[recorded.member] = recorded
            fault = await self._check(recorded, last.block if last else None)
            if fault is not None:
                self.report.blame(fault)
        self._note_silence({member: step.round for member, step in before.items()}, settings)
        self.report.faults.sort(key=lambda fault: (fault.round, fault.member))

    def _take_evidence(self, members: Sequence[MemberEntry], settings: AuditSettings) -> None:
        """Convicts whom signed evidence in the named homes, or in those beside the session file, convicts."""
        homes = [Path(place) for place in settings.ipfs if not is_daemon(place)]
        beside = settings.session_path.resolve().parent.glob("*/evidence")
        homes = homes or sorted(found.parent for found in beside)
        for fault in check_evidence(self.opened.session_id, members, homes):
            self.equivocal.add((fault.member, fault.round))  # a row may name a round before the first that is audited
            if settings.first <= fault.round <= (settings.last or LARGEST_ROUND):
                self.report.blame(fault)

    def _require_rounds(self, settings: AuditSettings) -> None:
        """An audit of rounds that nobody recorded would find nothing wrong, so it is refused."""
        known, first, last = self.history.rounds(), settings.first, settings.last or LARGEST_ROUND
        if known is not None and (first > known[1] or last < known[0]):
            asked = f"{first} to {settings.last or 'the last'}"
            raise ConfigError(f"rounds {asked} are not on the ledger: it has {known[0]} to {known[1]}")

    def _note_gaps(self, recorded: LedgerStep, before: int | None) -> None:
        member, round = recorded.member, recorded.round
        if before is not None and before + 1 < round:
            self.report.miss(Gap(member, before + 1, round - 1))
        if recorded.mix is None and recorded.fault is None:
            self.report.miss(Gap(member, round, round))

    def _note_silence(self, last: Mapping[int, int], settings: AuditSettings) -> None:
        """Members whose records end long before others' do, or who have none: a gap, of which nobody is accused.

        Who is no more rounds behind than an update may be old is not silent: nodes do not stop in the same round.
        """
        end = max((round for round in last.values() if round <= self.opened.session.rounds), default=0)
        for member in range(self.report.members):
            self.report.of(member)
            first = last.get(member, settings.first - 1) + 1
            if end - first + 1 > (self.opened.session.limits.staleness if member in last else 0):
                self.report.miss(Gap(member, first, end))

    async def _check(self, recorded: LedgerStep, before: int | None) -> Fault | None:
        """What is wrong with a step, if anything; counts it."""
        if recorded.fault is not None:
            return Fault(recorded.member, recorded.round, "record", "a well-formed record", recorded.fault)
        if not 1 <= recorded.round <= self.opened.session.rounds:
            rounds = f"rounds 1 to {self.opened.session.rounds} of the session"
            return Fault(recorded.member, recorded.round, "record", rounds, f"a record of round {recorded.round}")
        if recorded.mix is None:
            return None
        step = node_step(recorded)
        coverage = self._cover(step)
        self._hold_against_ledger(step, recorded.mixed_block or recorded.block, before)
        fault = self._check_row(step) or await self._check_snapshot(step)
        if fault is not None:
            return fault
        outcome = await self._replay(step)
        if isinstance(outcome, Fault):
            excused = excuse(step, outcome, self.equivocal)
            if excused is None:
                return outcome
            self.report.add(excused)
            outcome = False
        coverage.replayed += outcome
        self.report.steps_replayed += outcome
        self.report.steps_without_snapshot += not outcome
        return None

    def _cover(self, step: Step) -> Coverage:
        """Counts the step, and whether it names a snapshot where the session wants one."""
        self.report.steps_total += 1
        coverage, session = self.report.of(step.member), self.opened.session
        coverage.steps += 1
        if session.privacy is not None and step.mix.epsilon is not None:
            coverage.epsilon = step.mix.epsilon
        if step.mix.snapshot is None:
            coverage.without_cid += 1
            coverage.due_without_cid += step.round % session.snapshot_every == 0 or step.round == session.rounds
        return coverage

    def _hold_against_ledger(self, step: Step, mixed_block: int, before: int | None) -> None:
        """Reports what the ledger says against the members and updates that a row names."""
        if self.coordinated is not None and not self.coordinated.rules.is_coordinators(step):
            return  # the row of an adopted model names no cohort, and the last model has no record
        self.report.add(check_members(step, mixed_block, before, self.ledger))
        for found in check_recorded(step, mixed_block, self.ledger):
            self.report.add(found)

    def _coordinated_check(self, members: Sequence[MemberEntry]) -> CoordinatedCheck | None:
        """What a coordinated session is checked with; None for a gossip session."""
        session = self.opened.session
        if session.coordinated is None:
            return None
        account = session.coordinated.coordinator.lower()
        named = next((member.index for member in members if member.account.lower() == account), -1)
        records = (Recorded(*row) for row in self.history.in_order())
        coordinators = tuple(terms(named, records, session.coordinated.election_s))
        staleness = session.limits.staleness if session.coordinated.late == "weight" else 0
        rules = CoordinatedRules(
            coordinators,
            session.quorum,
            staleness,
            bytes.fromhex(session.initial.sha256),
            session.coordinated,
            session.rounds,
        )

        def mixed(round: int) -> bytes | None:
            return self.history.mixed_hash(rules.coordinator(round), round)

        def passed(round: int) -> bool:
            return self.history.has_passed(rules.coordinator(round), round)

        return CoordinatedCheck(rules, self.history.update_hash, mixed, passed)

    def _check_row(self, step: Step) -> Fault | None:
        fault = self.privacy.check(step) if self.privacy is not None else None
        if fault is not None:
            return fault
        if self.coordinated is not None:
            return self.coordinated.check_row(step)
        return check_row(step, self.rules)

    async def _check_snapshot(self, step: Step) -> Fault | None:
        """Whether the snapshot holds the mixed parameters that the record names; learns the model's shapes from it."""
        mixed = await self.payloads.read(step.member, step.round, MIXED)
        if mixed is None:
            self.report.of(step.member).not_found += step.mix.snapshot is not None
            return None
        digest = hashlib.sha256(mixed).digest()
        if digest != step.mix.mixed_hash:
            expected = f"SHA-256 {step.mix.mixed_hash.hex()}"
            return Fault(
                step.member, step.round, "snapshot", expected, f"SHA-256 {digest.hex()} in {step.mix.snapshot}"
            )
        if self.spec is None:
            spec, model = spec_of_payload(mixed), self.opened.session.model_sha256
            found = hashlib.sha256(spec.header).hexdigest() if spec else "none"
            if found != model:
                return Fault(step.member, step.round, "snapshot", f"tensors of the model, {model}", f"tensors {found}")
            self.spec = spec
        return None

    async def _replay(self, step: Step) -> Fault | bool:
        check = self.coordinated
        if check is not None and not check.rules.is_coordinators(step):
            return check.adopts_known_model(step)
        if self.spec is None:
            return False
        used = [(entry.member, step.round - entry.lag) for entry in step.mix.inputs if entry.weight]
        updates = await self.payloads.updates(used if check is None else check.needed(step), self.spec)
        if check is not None:
            limit = 2 * self.opened.session.limits.payload_bytes + HEADER_LIMIT
            moments = await self.payloads.read(step.member, step.round, MOMENTS, limit) if check.is_adaptive() else None
            mixed = await self.payloads.read(step.member, step.round, MIXED) if check.is_inexact() else None
            files = StepFiles(moments, mixed)
            return await trio.to_thread.run_sync(check.replay, step, self.spec, updates, files)
        return await trio.to_thread.run_sync(replay, step, self.spec, self.history.update_hash, updates)

    def _codec_of(self, member: int, round: int) -> Codec:
        """A coordinator's updates are models, which are never rounded."""
        is_model = self.coordinated is not None and member == self.coordinated.rules.coordinator(round)
        return codec(MODEL_CODEC) if is_model else self.codec
