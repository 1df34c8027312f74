"""Making a session, and checking a session file against the ledger."""

import hashlib
import secrets
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ledger import Chain, Ledger, SessionEntry, SessionUnknown, connect, deploy, load_keystore, session_id_of
from node.config import Contract, Initial, Sealing, Session, config_hash, format_session, parse_session
from node.errors import SessionFileError
from node.files import write_atomically, written_before
from node.home import Home
from node.learning import parameters
from node.learning.task import prepare
from node.learning.task_files import load_task
from node.sources import Ways, read_source
from node.storage import SealedSnapshots, format_key, key_hash, new_session_key, open_snapshots
from node.wishes import Wishes, draft, require_possible

INITIAL_FILE = "initial.safetensors"
SESSION_FILE = "session.toml"
NO_WAYS = Ways()
RPC_TIMEOUT_S = 10.0
FOR_EVERYBODY = 0o666  # less the umask: a session file is handed out


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session file together with what the ledger says of it."""

    session: Session
    session_id: int
    content: bytes
    entry: SessionEntry
    ledger: Ledger


async def create_session(
    home: Home, passphrase: str, wishes: Wishes, out: Path | None = None
) -> tuple[bytes, OpenSession]:
    """Creates a session on the ledger and pins its initial parameters in the home; returns the file's bytes.

    They are on the disk of `out` before there is a session, and have that name as soon as there is one. Raises
    NodeError or LedgerError; nothing is kept in the home before the wishes are known to be possible, and nothing is
    written to the chain before everything else is known to work.
    """
    account = load_keystore(home.keystore, passphrase)
    creator = str(account.address)
    require_possible(wishes, creator)
    chain = connect(wishes.rpc, timeout=RPC_TIMEOUT_S)
    known = None if wishes.contract is None else Ledger(chain, wishes.contract)
    seed = wishes.seed if wishes.seed is not None else secrets.randbelow(2**32)
    learner = prepare(load_task(wishes.task), seed)
    plan = draft(wishes, learner, seed, creator)
    payload = parameters.encode(learner.spec, learner.initial())
    key = new_session_key() if wishes.sealed else None
    async with open_snapshots(home.path) as snapshots:
        sealing = snapshots if key is None else SealedSnapshots(snapshots, key, home.path)
        cid = await sealing.add({INITIAL_FILE: payload})
    initial = Initial(cid=cid, sha256=hashlib.sha256(payload).hexdigest())
    ledger = known or Ledger(chain, deploy(chain, account))
    where = Contract(chain_id=ledger.chain.chain_id(), address=ledger.address, rpc=wishes.rpc)
    session = plan.model_copy(update={"initial": initial, "ledger": where})
    if key is not None:
        session = session.model_copy(update={"sealed": Sealing(key_hash=key_hash(key))})
    content = format_session(session)
    async with open_snapshots(home.path) as snapshots:  # from where nodes of the creator give it by its CID
        await snapshots.add({SESSION_FILE: content})
    if key is not None:  # before there is a session that needs it
        path = home.session_key(session_id_of(session.creator, config_hash(content)))
        write_atomically(path, format_key(key))
    with nullcontext() if out is None else written_before(out, content, FOR_EVERYBODY):
        session_id = ledger.create_session(account, config_hash(content), wishes.admitted, cid)
    if wishes.admitted:
        ledger.admit(account, session_id, [account.address])
    return content, OpenSession(session, session_id, content, ledger.session(session_id), ledger)


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
