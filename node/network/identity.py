"""A node's libp2p identity: an Ed25519 key in a file, the peer id that follows from it, signatures.

Knows no network. The file is in the private-key format of the libp2p specification, as go- and js-libp2p write it.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from node.errors import IdentityError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
# https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md: identity multihash (00 24) of the Protocol
# Buffers message {Type: Ed25519, Data: key}, and the private key as the same message with seed and public key.
PEER_ID_PREFIX = bytes.fromhex("0024080112 20")
FILE_PREFIX = bytes.fromhex("08011240")
PEERS_REMEMBERED = 4096  # ids and their keys: base58 is slow, and the same few come with every message


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair; its representation never shows the private half."""

    peer_id: str  # base58, 12D3KooW…
    public_key: bytes  # raw Ed25519, 32 bytes
    private_key: bytes = field(repr=False)  # seed, 32 bytes

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes (RFC 8032)."""
        return Ed25519PrivateKey.from_private_bytes(self.private_key).sign(message)


def identity_from_seed(seed: bytes) -> Identity:
    """The identity whose private key is `seed` (32 bytes)."""
    public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(peer_id_of(public_key), public_key, seed)


def create_identity(path: Path) -> Identity:
    """A new identity, written to `path` with mode 0600, whole or not at all.

    Raises IdentityError if the file exists already or cannot be written.
    """
    identity = identity_from_seed(secrets.token_bytes(KEY_BYTES))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_privately(draft, FILE_PREFIX + identity.private_key + identity.public_key)
        os.link(draft, path)  # unlike rename, refuses to replace
    except FileExistsError as error:
        raise IdentityError(f"an identity exists already: {path}; use it, or choose another home") from error
    except OSError as error:
        raise IdentityError(f"cannot write the identity {path}: {error.strerror}; check the directory") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return identity


def load_identity(path: Path) -> Identity:
    """The identity in `path`.

    Raises IdentityError if the file is missing, readable by others, or not an Ed25519 key.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"cannot read the identity {path}: {error.strerror}; create it with `fl-node init`"
        ) from error
    if mode & 0o077:
        raise IdentityError(f"the identity {path} is open to others (mode {mode & 0o777:o}); chmod 600 it")
    if len(content) != len(FILE_PREFIX) + 2 * KEY_BYTES or not content.startswith(FILE_PREFIX):
        raise IdentityError(f"{path} is no libp2p Ed25519 key ({len(content)} bytes); restore it from a copy")
    identity = identity_from_seed(content[len(FILE_PREFIX) : len(FILE_PREFIX) + KEY_BYTES])
    if not content.endswith(identity.public_key):
        raise IdentityError(f"the halves of the key in {path} do not match; restore it from a copy")
    return identity


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `peer_id`'s over `message`; False for anything malformed."""
    try:
        VerifyKey(public_key_of(peer_id)).verify(message, signature)  # libsodium: no keys of small order
    except (IdentityError, BadSignatureError, ValueError, TypeError):
        return False
    return True


@lru_cache(PEERS_REMEMBERED)
def peer_id_of(public_key: bytes) -> str:
    """The base58 peer id of a raw Ed25519 public key (32 bytes)."""
    if len(public_key) != KEY_BYTES:
        raise IdentityError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}; check its source")
    return str(base58.b58encode(PEER_ID_PREFIX + public_key).decode())


@lru_cache(PEERS_REMEMBERED)
def public_key_of(peer_id: str) -> bytes:
    """The raw Ed25519 public key (32 bytes) that a base58 peer id contains.

    Raises IdentityError if the text is no Ed25519 peer id.
    """
    if len(peer_id) > 64:
        raise IdentityError(f"no Ed25519 peer id: {peer_id[:64]!r}…; it starts with 12D3KooW and has 52 characters")
    try:
        multihash = base58.b58decode(peer_id)
    except ValueError:
        multihash = b""
    if len(multihash) != len(PEER_ID_PREFIX) + KEY_BYTES or not multihash.startswith(PEER_ID_PREFIX):
        raise IdentityError(f"no Ed25519 peer id: {peer_id!r}; it starts with 12D3KooW and has 52 characters")
    return multihash[len(PEER_ID_PREFIX) :]


def _write_privately(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
