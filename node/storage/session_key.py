"""The key of a sealed session as a file, and what the session file says of it. Knows no members and no ledger.

The session file holds only `key_hash`, so that whoever is given a key, by whomever, knows whether it is the session's.
"""

import hashlib
import re
from pathlib import Path

from node.errors import StorageError
from node.storage.sealing import KEY_BYTES

_CONTEXT = b"fl-node/session-key/1"
_FILE = re.compile(r"\s*([0-9a-f]{64})\s*")
LIMIT = 1024  # bytes of a file


def key_hash(key: bytes) -> str:
    """SHA-256 (hexadecimal) of a session key under a context of its own: tells nothing of the key."""
    return hashlib.sha256(_CONTEXT + key).hexdigest()


def format_key(key: bytes) -> bytes:
    """The file of a session key."""
    return f"{key.hex()}\n".encode()


def parse_key(content: bytes, expected: str | None, source: str) -> bytes:
    """The session key (32 bytes) in a file; with `expected`, a `key_hash`, only that one.

    Raises StorageError naming `source`.
    """
    found = _FILE.fullmatch(content[: LIMIT + 1].decode("ascii", "replace"))
    if found is None:
        raise StorageError(
            f"{source} holds no session key, one line of {2 * KEY_BYTES} hexadecimal digits: get it from the creator"
        )
    key = bytes.fromhex(found[1])
    if expected is not None and key_hash(key) != expected:
        raise StorageError(f"the key in {source} is not this session's: get that of this session from its creator")
    return key


def read_key(path: Path, expected: str | None = None) -> bytes:
    """The session key (32 bytes) in a file; with `expected`, a `key_hash`, only that one. Raises StorageError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"the session key {path} cannot be read ({error.strerror})"
        raise StorageError(f"{what}: get it from the creator") from error
    return parse_key(content, expected, str(path))
