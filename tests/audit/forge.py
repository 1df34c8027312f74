"""Sessions forged record by record on a real chain, honest but for one thing; no node is involved."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import trio
from eth_account import Account
from eth_account.signers.local import LocalAccount

from ledger import Chain, Input, Ledger, Membership, Mix, Record, binding_message, deploy, session_id_of
from node.audit.report import AuditReport
from node.audit.run import AuditSettings, audit_session
from node.config import Contract, Initial, Limits, Privacy, Session, config_hash, format_session
from node.learning import parameters
from node.learning.mixing import mix
from node.network.identity import Identity, identity_from_seed
from node.session.cohort import draw_cohort
from node.storage import digest_of, open_snapshots

SPEC = parameters.ParameterSpec(("bias", "weight"), ((3,), (2, 3)))


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class Draft:
    """What a member is about to record of a round; a forger changes it."""

    member: int
    round: int
    update: bytes  # as peers got it
    update_hash: bytes
    inputs: tuple[Input, ...]
    mixed: bytes
    mixed_hash: bytes
    snapshot_update: bytes
    snapshot_mixed: bytes
    skipped: bool = False
    epsilon: float | None = None


@dataclass
class Forgery:
    """A session of `members` × `rounds`; `change` may alter each draft before it is recorded."""

    chain: Chain
    place: Path
    members: int = 4
    rounds: int = 3
    cohort: int = 2
    change: Callable[[Draft], None] = lambda _draft: None
    spec: parameters.ParameterSpec = SPEC
    privacy: Privacy | None = None
    snapshot_every: int = 1
    bind: Callable[[int, Identity], Identity] = lambda _member, identity: identity  # who signs the binding
    identity: Callable[[int], Identity] = lambda member: identity_from_seed(bytes([member + 1]) * 32)
    after_rounds: Callable[[], Awaitable[None]] | None = None  # may change what is to be recorded
    accounts: list[LocalAccount] = field(default_factory=lambda: [Account.create() for _ in range(8)])

    def audit(self, *, first: int = 1, last: int | None = None) -> AuditReport:
        """Records everything, then audits it."""
        self.record()
        return self.judge(first, last)

    def judge(self, first: int = 1, last: int | None = None) -> AuditReport:
        """Audits what is recorded."""
        settings = AuditSettings(self.place / "session.toml", None, (str(self.place),), first, last)
        return trio.run(audit_session, settings, lambda _line: None)

    def record(self) -> tuple[Ledger, int]:
        """Puts the session, its members, their snapshots and records where an auditor finds them."""
        ledger, session_id = self._session()
        self.session_id = session_id
        self._join(ledger, session_id)
        trio.run(self._rounds, session_id)
        if self.after_rounds is not None:
            trio.run(self.after_rounds)
        for member, records in enumerate(self.records):
            for record in records:
                ledger.submit(self.accounts[member], record)
        return ledger, session_id

    def _session(self) -> tuple[Ledger, int]:
        ledger = Ledger(self.chain, deploy(self.chain, self.accounts[0]))
        session = Session(
            name="forged",
            creator=str(self.accounts[0].address),
            task="pipe-flow",
            model_sha256=hashlib.sha256(self.spec.header).hexdigest(),
            rounds=self.rounds,
            cohort=self.cohort,
            seed=1,
            initial=Initial(cid="bafy", sha256="0" * 64),
            limits=Limits(payload_bytes=self.spec.payload_size),
            ledger=Contract(chain_id=self.chain.chain_id(), address=ledger.address, rpc=self.chain.url),
            privacy=self.privacy,
            snapshot_every=self.snapshot_every,
        )
        content = format_session(session)
        (self.place / "session.toml").write_bytes(content)
        ledger.create_session(self.accounts[0], config_hash(content))
        return ledger, session_id_of(self.accounts[0].address, config_hash(content))

    def _join(self, ledger: Ledger, session_id: int) -> None:
        for member in range(self.members):
            identity = self.identity(member)
            account = self.accounts[member]
            message = binding_message(self.chain.chain_id(), ledger.address, session_id, account.address)
            signature = self.bind(member, identity).sign(message)
            ledger.join(account, session_id, Membership(identity.public_key, signature))

    async def _rounds(self, session_id: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.records: list[list[Record]] = [[] for _ in range(self.members)]
        pending: list[Mix | None] = [None] * self.members
        async with open_snapshots(self.place) as snapshots:
            for round in range(1, self.rounds + 1):
                updates = [
                    parameters.encode(self.spec, torch.randn(self.spec.size, generator=generator))
                    for _ in range(self.members)
                ]
                for member in range(self.members):
                    draft = self._draft(session_id, member, round, updates)
                    self.change(draft)
                    if draft.skipped:
                        continue
                    self.records[member].append(Record(session_id, round, draft.update_hash, pending[member]))
                    files = {"update": draft.snapshot_update, "mixed.safetensors": draft.snapshot_mixed}
                    cid = digest_of(await snapshots.add(files))
                    pending[member] = Mix(self.members, draft.inputs, draft.mixed_hash, cid, draft.epsilon)
        for member, last in enumerate(pending):
            if last is not None:
                self.records[member].append(Record(session_id, self.rounds + 1, None, last))

    def _draft(self, session_id: int, member: int, round: int, updates: list[bytes]) -> Draft:
        chosen = sorted({member, *draw_cohort(session_id, round, member, self.members, self.cohort)})
        weights = np.array([40_000, *[25_535 // (len(chosen) - 1)] * (len(chosen) - 1)], dtype=np.uint16)
        weights[-1] += 65_535 - int(weights.sum(dtype=np.int64))
        inputs = tuple(Input(each, int(weight), 0) for each, weight in zip(chosen, weights, strict=True))
        mixed = mixture(self.spec, updates, inputs)
        update = updates[member]
        return Draft(member, round, update, sha256(update), inputs, mixed, sha256(mixed), update, mixed)


def mixture(spec: parameters.ParameterSpec, updates: list[bytes], inputs: tuple[Input, ...]) -> bytes:
    """The mixed payload of these inputs."""
    stacked = [parameters.decode(spec, updates[entry.member]) for entry in inputs]
    return parameters.encode(spec, mix(stacked, np.array([entry.weight for entry in inputs], dtype=np.uint16)))


def swapped(inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """The row with its first two weights exchanged."""
    first, second, *rest = inputs
    return (replace(first, weight=second.weight), replace(second, weight=first.weight), *rest)
