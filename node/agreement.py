"""Making a session, and checking a session file against the ledger."""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ledger import Chain, Ledger, SessionEntry, SessionUnknown, connect, deploy, load_keystore, session_id_of
from node.config import (
    Aggregation,
    Contract,
    Convergence,
    Coordination,
    Initial,
    Limits,
    Meeting,
    Privacy,
    Sealing,
    Session,
    Shares,
    config_hash,
    format_session,
    parse_session,
)
from node.errors import ConfigError, SessionFileError
from node.files import write_atomically
from node.home import Home
from node.learning import parameters
from node.learning.aggregation import OPTIMIZERS
from node.learning.codecs import codec
from node.learning.task import Learner, prepare
from node.learning.task_files import load_task
from node.sources import Ways, read_source
from node.storage import SealedSnapshots, format_key, key_hash, new_session_key, open_snapshots

INITIAL_FILE = "initial.safetensors"
SESSION_FILE = "session.toml"
NO_WAYS = Ways()
RPC_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class CoordinationWishes:
    """What the creator of a coordinated session chooses besides."""

    coordinator: str | None = None  # an account; None: the creator's
    maximum: int = 65_535
    accumulate: int = 1
    momentum: float = 0.9
    schedule: str = "constant"
    rule: str = "fedavg"
    faulty: int = 0
    proximal: float = 0.01
    server_rate: float = 0.01
    late: str = "weight"
    deadline_spread: float = 4.0
    balance: bool = True
    election_s: float = 0.0
    metric: str = ""
    target: float | None = None
    plateau: int = 0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the creator of a session chooses."""

    task: str
    rounds: int
    rpc: str
    contract: str | None = None  # None: deploy one
    name: str = ""
    members: int = 4
    split: str = "iid"
    data: str = "own"  # or served, by the coordinator
    split_bytes: int = 2**30
    cohort: int = 5
    quorum: int | None = None  # None: 2, or 1 of one member
    codec: str = "float32"
    objective: str = "common"
    seed: int | None = None
    snapshot_every: int = 5
    replicas: int = 2
    staleness: int = 2
    round_deadline_s: float = 60.0
    admitted: bool = False
    experiment: bool = False
    bootstrap: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    topology: str = "gossip"
    update: str = "parameters"
    coordination: CoordinationWishes | None = None  # None: the defaults, if the topology needs it
    privacy: Privacy | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session file together with what the ledger says of it."""

    session: Session
    session_id: int
    content: bytes
    entry: SessionEntry
    ledger: Ledger


async def create_session(home: Home, passphrase: str, wishes: Wishes) -> tuple[bytes, OpenSession]:
    """Creates a session on the ledger and pins its initial parameters in the home; returns the file's bytes.

    Raises NodeError or LedgerError; nothing is written to the chain before everything else is known to work.
    """
    account = load_keystore(home.keystore, passphrase)
    agreed_quorum(wishes)
    rules = coordination(wishes, str(account.address))  # one that cannot be is an error before anything is sent
    if codec(wishes.codec).depth and rules is not None:  # as is an unknown name
        raise ConfigError(
            f"codec {wishes.codec!r} sends differences, which workers that start from a new model each round cannot: "
            "choose float32, bfloat16 or int8, each also with +zstd"
        )
    if wishes.sealed and not wishes.admitted:
        raise ConfigError("--sealed without --admitted: anybody could join the session and get its key; pass both")
    chain = connect(wishes.rpc, timeout=RPC_TIMEOUT_S)
    seed = wishes.seed if wishes.seed is not None else secrets.randbelow(2**32)
    learner = prepare(load_task(wishes.task), seed)
    payload = parameters.encode(learner.spec, learner.initial())
    key = new_session_key() if wishes.sealed else None
    async with open_snapshots(home.path) as snapshots:
        sealing = snapshots if key is None else SealedSnapshots(snapshots, key, home.path)
        cid = await sealing.add({INITIAL_FILE: payload})
    initial = Initial(cid=cid, sha256=hashlib.sha256(payload).hexdigest())
    address = wishes.contract or deploy(chain, account)
    ledger = Ledger(chain, address)
    session = describe(wishes, learner, seed, initial, ledger, str(account.address))
    if key is not None:
        session = session.model_copy(update={"sealed": Sealing(key_hash=key_hash(key))})
    content = format_session(session)
    async with open_snapshots(home.path) as snapshots:  # from where nodes of the creator give it by its CID
        await snapshots.add({SESSION_FILE: content})
    if key is not None:  # before there is a session that needs it
        path = home.session_key(session_id_of(session.creator, config_hash(content)))
        write_atomically(path, format_key(key))
    session_id = ledger.create_session(account, config_hash(content), wishes.admitted, cid)
    if wishes.admitted:
        ledger.admit(account, session_id, [account.address])
    return content, OpenSession(session, session_id, content, ledger.session(session_id), ledger)


def describe(wishes: Wishes, learner: Learner, seed: int, initial: Initial, ledger: Ledger, creator: str) -> Session:
    """The agreement that these wishes make."""
    size = codec(wishes.codec).size_limit(learner.spec)
    return Session(
        name=wishes.name or f"{learner.task.name}-{secrets.token_hex(2)}",
        creator=creator,
        task=learner.task.name,
        model_sha256=model_hash(learner),
        update=wishes.update,  # type: ignore[arg-type]  # pydantic checks it
        topology=wishes.topology,  # type: ignore[arg-type]  # pydantic checks it
        objective=wishes.objective,  # type: ignore[arg-type]  # pydantic checks it
        rounds=wishes.rounds,
        cohort=wishes.cohort,
        quorum=agreed_quorum(wishes),
        codec=wishes.codec,
        seed=seed,
        snapshot_every=wishes.snapshot_every,
        replicas=wishes.replicas,
        access="admitted" if wishes.admitted else "open",
        experiment=wishes.experiment,
        initial=initial,
        data=Shares(
            split=wishes.split,
            count=wishes.members,
            source=wishes.data,  # type: ignore[arg-type]  # pydantic checks it
            bytes=wishes.split_bytes,
        ),
        limits=Limits(
            payload_bytes=max(size, learner.spec.payload_size),
            staleness=wishes.staleness,
            round_deadline_s=wishes.round_deadline_s,
        ),
        ledger=Contract(chain_id=ledger.chain.chain_id(), address=ledger.address, rpc=wishes.rpc),
        peers=Meeting(bootstrap=wishes.bootstrap, trackers=wishes.trackers),
        coordinated=coordination(wishes, creator),
        privacy=wishes.privacy,
    )


def agreed_quorum(wishes: Wishes) -> int:
    """How many members a round, or the first one of gossip, needs. ConfigError for more than there are."""
    if wishes.quorum is None:
        return min(2, wishes.members)
    if wishes.quorum > wishes.members:
        raise ConfigError(
            f"--quorum {wishes.quorum} of {wishes.members} members never comes: choose --quorum {wishes.members} or "
            f"less, or --members {wishes.quorum} or more"
        )
    return wishes.quorum


def coordination(wishes: Wishes, creator: str) -> Coordination | None:
    """The [coordinated] table that these wishes make; None for a gossip session. ConfigError for what cannot be."""
    chosen = wishes.coordination or CoordinationWishes()
    coordinated, optimizer = wishes.topology == "coordinated", chosen.rule in OPTIMIZERS
    if (wishes.update == "gradients") != (coordinated and optimizer):
        raise ConfigError(
            f"update {wishes.update!r} of a {wishes.topology} session with the rule {chosen.rule!r}: gradients go with "
            f"--topology coordinated and --rule {' or '.join(sorted(OPTIMIZERS))}, and only with them"
        )
    if wishes.privacy is not None and (wishes.update == "gradients" or (coordinated and chosen.rule == "fedprox")):
        raise ConfigError(
            f"a privacy budget with update {wishes.update!r} and the rule {chosen.rule!r}: DP-SGD sends parameters and "
            "has no proximal term; choose --update parameters and another --rule, or leave --epsilon out"
        )
    if wishes.data == "served" and (not coordinated or wishes.privacy is not None):
        raise ConfigError(
            "--data served needs --topology coordinated and no --epsilon: the coordinator is who has the data set, and "
            "a privacy budget protects data that a member has alone"
        )
    if chosen.election_s and (wishes.privacy is not None or not coordinated):
        raise ConfigError("--election needs --topology coordinated and no --epsilon: leave one of them out")
    if not coordinated:
        return None
    if (quorum := agreed_quorum(wishes)) > chosen.maximum:
        raise ConfigError(f"--quorum {quorum} never comes where --maximum {chosen.maximum} may join: lower the quorum")
    try:
        return Coordination(
            coordinator=chosen.coordinator or creator,
            maximum=chosen.maximum,
            accumulate=chosen.accumulate,
            late=chosen.late,  # type: ignore[arg-type]  # pydantic checks these
            deadline_spread=chosen.deadline_spread,
            balance=chosen.balance,
            election_s=chosen.election_s,
            aggregation=Aggregation(
                rule=chosen.rule,  # type: ignore[arg-type]
                faulty=chosen.faulty,
                proximal=chosen.proximal,
                server_rate=chosen.server_rate,
                momentum=chosen.momentum,
                schedule=chosen.schedule,  # type: ignore[arg-type]
            ),
            convergence=Convergence(
                metric=chosen.metric,  # type: ignore[arg-type]
                target=chosen.target,
                plateau=chosen.plateau,
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the convergence"
        raise ConfigError(f"{field}: {first['msg']}: see fl-node session create --help") from error


def model_hash(learner: Learner) -> str:
    """SHA-256 of the names and shapes of a model's parameters: whoever has another one cannot take part."""
    return hashlib.sha256(learner.spec.header).hexdigest()


def read_session_file(source: Path | str, ways: Ways = NO_WAYS) -> tuple[bytes, Session]:
    """The bytes and the content of a session file: a path, a URL or a CID. SessionFileError names what is wrong."""
    content = read_source(str(source), ways)
    return content, parse_session(content, str(source))


def open_session(path: Path | str, rpc: str | None, chain: Chain | None = None, ways: Ways = NO_WAYS) -> OpenSession:
    """The session of a file (a path, a URL or a CID), checked against the ledger.

    Raises SessionFileError if the ledger does not know exactly these bytes, LedgerError if it cannot be asked.
    """
    content, session = read_session_file(path, ways)
    url = rpc or session.ledger.rpc
    if not url:
        raise SessionFileError(f"{path} names no Ethereum node: pass --rpc URL")
    chain = chain or connect(url, session.ledger.chain_id, RPC_TIMEOUT_S)
    ledger = Ledger(chain, session.ledger.address)
    digest = config_hash(content)
    session_id = session_id_of(session.creator, digest)
    try:
        entry = ledger.session(session_id)
    except SessionUnknown as error:
        raise SessionFileError(
            f"{path} (SHA-256 {digest.hex()[:16]}…) is not a session of the ledger {ledger.address}: "
            "the file was altered, or its session was never created there; ask its creator for the file"
        ) from error
    if entry.config_hash != digest:
        raise SessionFileError(
            f"{path} has SHA-256 {digest.hex()}, the ledger has {entry.config_hash.hex()}: ask its creator for the file"
        )
    return OpenSession(session, session_id, content, entry, ledger)
