"""Content identifiers (CIDv1, sha2-256, raw or dag-pb): bytes, text, digest. Knows no blocks on disk and no network.

Written by hand although py-cid comes with py-libp2p: that library accepts every codec, hash and base there is, while a
node must refuse all but the two kinds of block that it can verify and read. The tests compare the two.
Source: https://github.com/multiformats/cid
"""

import base64
import hashlib
import re

from node.errors import ContentMalformed, StorageError

RAW = 0x55
DAG_PB = 0x70
DIGEST_BYTES = 32
CID_BYTES = 36

_SHA2_256 = b"\x12\x20"  # multihash: function, length
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE32_TEXT = re.compile(r"b[a-z2-7]{58}")
_BASE58_TEXT = re.compile(rf"[{_BASE58}]{{44,56}}")
_CURE = "give a CIDv1 such as bafybei… (`ipfs cid base32 CID` converts others)"


def make_cid(codec: int, digest: bytes) -> bytes:
    """The 36 bytes of the CIDv1 of a block with this SHA-256 digest (32 bytes)."""
    if codec not in (RAW, DAG_PB) or len(digest) != DIGEST_BYTES:
        raise StorageError(f"codec {codec:#x} with a digest of {len(digest)} bytes makes no CID: {_CURE}")
    return bytes((1, codec)) + _SHA2_256 + digest


def cid_of_block(codec: int, block: bytes) -> bytes:
    """The CID of a block's bytes."""
    return make_cid(codec, hashlib.sha256(block).digest())


def is_block_of(cid: bytes, block: bytes) -> bool:
    """True if the block is what the CID names."""
    return hashlib.sha256(block).digest() == cid[-DIGEST_BYTES:]


def codec_of(cid: bytes) -> int:
    """RAW or DAG_PB."""
    return cid[1]


def cid_from_bytes(raw: bytes) -> bytes:
    """The CID as 36 canonical bytes; a CIDv0 (34 bytes) becomes the CIDv1 of the same block. Raises StorageError."""
    if len(raw) == len(_SHA2_256) + DIGEST_BYTES and raw.startswith(_SHA2_256):
        return make_cid(DAG_PB, raw[len(_SHA2_256) :])
    known = len(raw) == CID_BYTES and raw[0] == 1 and raw[1] in (RAW, DAG_PB) and raw[2:4] == _SHA2_256
    if not known:
        shown = raw[:CID_BYTES].hex()
        raise ContentMalformed(f"CID bytes {shown or '(none)'} are not sha2-256 of raw or dag-pb: {_CURE}")
    return raw


def parse_cid(text: str) -> bytes:
    """The 36 bytes of a CID in base32 (`b…`), base58 (`z…`) or version 0 (`Qm…`). Raises StorageError."""
    if _BASE32_TEXT.fullmatch(text):
        raw = base64.b32decode(text[1:].upper() + "======")
    elif _BASE58_TEXT.fullmatch(text) and text[0] in "Qz":
        raw = _from_base58(text.removeprefix("z"))
    else:
        raise StorageError(f"CID {text[:80]!r} is not one that this node reads: {_CURE}")
    cid = cid_from_bytes(raw)
    if text.startswith("b") and format_cid(cid) != text:  # the last character has two bits to spare
        raise StorageError(f"CID {text!r} is not in canonical base32: {_CURE}")
    return cid


def format_cid(cid: bytes) -> str:
    """The CID as text in base32, as `ipfs add --cid-version=1` prints it."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def canonical_cid(text: str) -> str:
    """The CID in base32, whatever `parse_cid` reads it from. Raises StorageError."""
    return format_cid(parse_cid(text))


def directory_cid(digest: bytes) -> str:
    """The CID of the snapshot directory whose root has this digest; the ledger stores only the 32 bytes."""
    return format_cid(make_cid(DAG_PB, digest))


def digest_of(cid: str) -> bytes:
    """The 32-byte SHA-256 digest in a CID: what the ledger stores of a snapshot. Raises StorageError."""
    return parse_cid(cid)[-DIGEST_BYTES:]


def _from_base58(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
