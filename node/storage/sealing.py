"""Encryption of files at rest, in parts, for sessions whose models are private. Knows no snapshots and no members.

A sealed file is `magic (16) || salt (32)` and then parts of 64 KiB, each sealed by ChaCha20-Poly1305 (16 bytes more)
under a key of this file, with the part's number and whether it is the last as the nonce: the construction of age and of
STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015). Parts cannot be altered, dropped, repeated, reordered or cut off
unnoticed.

The salt is HMAC-SHA256 of the content under the session key, so the same content of the same session is the same sealed
file, and a node that repeats an add after a crash gets the CID that it recorded. Without the key, the public sees names
and sizes of files, and whether two files of one session are equal. The ledger still shows the SHA-256 of each update
and mix: who can guess the content bit for bit can confirm the guess.
Sources: https://age-encryption.org/v1 and https://eprint.iacr.org/2015/189
"""

import hashlib
import hmac
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from node.errors import StorageError

KEY_BYTES = 32
PART = 65_536

_MAGIC = b"fl-node/sealed/1"
_SALT_BYTES = 32
_TAG_BYTES = 16


def new_session_key() -> bytes:
    """A fresh session key, 32 bytes: whoever has it can read all sealed snapshots of the session."""
    return os.urandom(KEY_BYTES)


def seal(source: BinaryIO, key: bytes) -> Iterator[bytes]:
    """The sealed file in parts. `source` is read twice (first for the salt), so it must be able to seek."""
    salt = _salt(source, key)
    cipher = _cipher(key, salt)
    yield _MAGIC + salt
    part, number = source.read(PART), 0
    while True:
        following = source.read(PART)
        yield cipher.encrypt(_nonce(number, last=not following), part, None)
        if not following:
            return
        part, number = following, number + 1


def is_sealed(path: Path) -> bool:
    """Whether a file begins as `seal` begins it."""
    with path.open("rb") as source:
        return source.read(len(_MAGIC)) == _MAGIC


def unseal(source: BinaryIO, key: bytes) -> Iterator[bytes]:
    """The content in parts, each verified; only after the last is it sure to be whole. Raises StorageError."""
    header = source.read(len(_MAGIC) + _SALT_BYTES)
    if len(header) != len(_MAGIC) + _SALT_BYTES or not header.startswith(_MAGIC):
        raise StorageError(f"file that begins with {header[:16]!r} is not sealed: read it without a session key")
    cipher = _cipher(key, header[len(_MAGIC) :])
    part, number = source.read(PART + _TAG_BYTES), 0
    while True:
        following = source.read(PART + _TAG_BYTES)
        yield _opened(cipher, _nonce(number, last=not following), part)
        if not following:
            return
        part, number = following, number + 1


def seal_bytes(content: bytes, key: bytes) -> bytes:
    """The sealed file of content in memory."""
    return b"".join(seal(io.BytesIO(content), key))


def unseal_bytes(sealed: bytes, key: bytes) -> bytes:
    """The whole content, verified. Raises StorageError."""
    return b"".join(unseal(io.BytesIO(sealed), key))


def sealed_size(size: int) -> int:
    """Bytes of the sealed file of so much content."""
    return len(_MAGIC) + _SALT_BYTES + size + _TAG_BYTES * max(1, -(-size // PART))


def content_size(size: int) -> int:
    """Bytes of content in a sealed file of this size; raises StorageError where there is no such size."""
    body = size - len(_MAGIC) - _SALT_BYTES
    content = body - _TAG_BYTES * -(-body // (PART + _TAG_BYTES))
    if content < 0 or sealed_size(content) != size:
        raise StorageError(f"file of {size:,} bytes is not sealed: read it without a session key")
    return content


def _opened(cipher: ChaCha20Poly1305, nonce: bytes, part: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, part, None)
    except InvalidTag as error:
        raise StorageError(
            "sealed file was altered or cut off, or the session key is another's: get both again"
        ) from error


def _salt(source: BinaryIO, key: bytes) -> bytes:
    _check(key)
    digest = hashlib.sha256()
    while part := source.read(1 << 20):
        digest.update(part)
    source.seek(0)
    return hmac.digest(key, b"salt" + digest.digest(), "sha256")


def _cipher(key: bytes, salt: bytes) -> ChaCha20Poly1305:
    _check(key)
    return ChaCha20Poly1305(HKDF(SHA256(), KEY_BYTES, salt, _MAGIC).derive(key))


def _check(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise StorageError(f"session key of {len(key)} bytes: it must have {KEY_BYTES}")


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((last,))
