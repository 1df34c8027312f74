"""A session file from wherever its creator put it: a path, an http(s) URL, or an IPFS CID.

Knows no ledger: what comes from outside is bounded in bytes and seconds here, and checked against the ledger's hash by
`agreement`. The CID of a session file is that of one raw block, so its digest is the hash on the ledger.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from node.config import FILE_LIMIT, config_hash
from node.errors import NodeError, SessionFileError, StorageError
from node.storage.cid import RAW, codec_of, format_cid, is_block_of, make_cid, parse_cid
from node.storage.kubo_rpc import KuboRpc

CURE = "ask the session's creator for the file"
CHUNK = 16 * 1024
MAX_REDIRECTS = 3

Ask = Callable[[bytes, float], bytes | None]


@dataclass(frozen=True, slots=True)
class Ways:
    """How to reach what is not on this machine."""

    ipfs: str | None = None  # a Kubo daemon's RPC
    ask: Ask | None = None  # asks nodes for a block: CID in bytes, seconds
    seconds: float = 30.0  # for all of it


def is_remote(source: str) -> bool:
    """Whether a source is a URL or a CID, and no file of that name exists."""
    return source.startswith(("http://", "https://", "ipfs://")) or (not os.path.exists(source) and _is_cid(source))


def session_cid(content: bytes) -> str:
    """The CID of a session file, as `ipfs add --cid-version=1` gives it."""
    return format_cid(make_cid(RAW, config_hash(content)))


def read_source(source: str, ways: Ways) -> bytes:
    """At most FILE_LIMIT + 1 bytes of a session file; synchronous. SessionFileError names what failed and the cure."""
    if not is_remote(source):
        return _from_path(Path(source))
    if source.startswith(("http://", "https://")):
        return _from_url(source, ways.seconds)
    return _from_ipfs(source.removeprefix("ipfs://"), ways)


def _is_cid(text: str) -> bool:
    try:
        parse_cid(text)
    except StorageError:
        return False
    return True


def _from_path(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise SessionFileError(f"the session file {path} cannot be read ({error.strerror}): {CURE}") from error


def _from_url(url: str, seconds: float) -> bytes:
    """In a thread that is left behind when time is up: requests knows deadlines only between two bytes."""
    found: queue.SimpleQueue[bytes | SessionFileError] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(_try_url(url, seconds)), name="session-url", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise SessionFileError(f"{url} did not answer in full within {seconds:g} s: {CURE}") from None
    if isinstance(answer, SessionFileError):
        raise answer
    return answer


def _try_url(url: str, seconds: float) -> bytes | SessionFileError:
    try:
        with requests.Session() as client:
            client.max_redirects = MAX_REDIRECTS
            client.trust_env = False  # no passwords from ~/.netrc for a stranger's URL
            with client.get(url, stream=True, timeout=min(10.0, seconds)) as answer:
                if answer.status_code != requests.codes.ok:
                    return SessionFileError(f"{url} answers with status {answer.status_code}: {CURE}")
                return _bounded(url, answer.iter_content(CHUNK), time.monotonic() + seconds)
    except SessionFileError as error:
        return error
    except (requests.RequestException, ValueError) as error:  # ValueError: a URL that urllib3 cannot take apart
        return SessionFileError(f"{url} cannot be read ({_reason(error)}): {CURE}")


def _bounded(source: str, pieces: Iterator[bytes], deadline: float) -> bytes:
    content = b""
    for piece in pieces:
        content += piece
        if len(content) > FILE_LIMIT:
            raise SessionFileError(f"{source} is larger than the {FILE_LIMIT} bytes of a session file: {CURE}")
        if time.monotonic() > deadline:
            raise SessionFileError(f"{source} sends too slowly ({len(content)} bytes so far): {CURE}")
    return content


def _from_ipfs(text: str, ways: Ways) -> bytes:
    try:
        cid = parse_cid(text)
        if ways.ipfs is not None:
            pieces = KuboRpc(ways.ipfs, ways.seconds).cat(format_cid(cid), FILE_LIMIT)
            content = _bounded(text, pieces, time.monotonic() + ways.seconds)
        else:
            content = _from_peers(cid, ways)
    except SessionFileError:
        raise
    except NodeError as error:
        raise SessionFileError(f"the session file {text} cannot be read: {error}") from error
    if codec_of(cid) == RAW and not is_block_of(cid, content):
        raise SessionFileError(f"what came for {text} does not have its hash: {CURE}")
    return content


def _from_peers(cid: bytes, ways: Ways) -> bytes:
    """The one block of a session file, from nodes that were named."""
    if ways.ask is None:
        raise SessionFileError(
            f"the session file {format_cid(cid)} is in IPFS: name a Kubo daemon with --ipfs, or a node that has it "
            "with --peers, or get the file first (ipfs cat CID > session.toml) if this command has neither"
        )
    if codec_of(cid) != RAW:
        raise SessionFileError(
            f"{format_cid(cid)} is no single block: use the CID that `fl-node session create` printed, or --ipfs"
        )
    content = ways.ask(cid, ways.seconds)
    if content is None:
        raise SessionFileError(
            f"no peer gave the session file {format_cid(cid)} within {ways.seconds:g} s: name a node of its creator "
            "(one that takes part; an admitted session's nodes serve members only), or take the file itself"
        )
    return content


def _reason(error: Exception) -> str:
    """The innermost reason of an exception of requests, without its objects' addresses."""
    while error.__context__ is not None and isinstance(error.__context__, Exception):
        error = error.__context__
    return str(error) or type(error).__name__
