"""IPFS content identifiers as bytes: which ones we deal in, and whether a block is what one names.

Only SHA-256 is accepted (https://github.com/multiformats/cid): a hash that we cannot check is worth nothing.
"""

import hashlib

from node.errors import PeerError

SHA2_256 = b"\x12\x20"
DIGEST_BYTES = 32
V0_CODEC = 0x70  # dag-pb, which is what a CIDv0 means
MAX_CODEC_BYTES = 9


def digest_and_codec(cid: bytes) -> tuple[bytes, int]:
    """The SHA-256 digest and the codec in a CIDv0 or CIDv1. Raises PeerError if it is not one of these."""
    if len(cid) == len(SHA2_256) + DIGEST_BYTES and cid.startswith(SHA2_256):
        return cid[len(SHA2_256) :], V0_CODEC
    if cid[:1] == b"\x01":
        codec, rest = _varint(cid[1:])
        if len(rest) == len(SHA2_256) + DIGEST_BYTES and rest.startswith(SHA2_256):
            return rest[len(SHA2_256) :], codec
    raise PeerError(f"no CID with SHA-256: {cid[:48].hex()}; only those can be checked")


def prefix_of(cid: bytes) -> bytes:
    """What bitswap sends before a block, so that the receiver can compute the CID."""
    _, codec = digest_and_codec(cid)
    version = b"\x00" if cid.startswith(SHA2_256) else b"\x01"
    return version + _encode(codec) + SHA2_256


def cid_of(prefix: bytes, block: bytes) -> bytes:
    """The CID of a block that came with `prefix`. Raises PeerError if the prefix is malformed."""
    version, rest = prefix[:1], prefix[1:]
    codec, kind = _varint(rest)
    if version not in (b"\x00", b"\x01") or kind != SHA2_256:
        raise PeerError(f"no CID prefix with SHA-256: {prefix[:16].hex()}; only those can be checked")
    multihash = SHA2_256 + hashlib.sha256(block).digest()
    return multihash if version == b"\x00" else b"\x01" + _encode(codec) + multihash


def _varint(data: bytes) -> tuple[int, bytes]:
    value = 0
    for index, byte in enumerate(data[:MAX_CODEC_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, data[index + 1 :]
    raise PeerError(f"no varint: {data[:MAX_CODEC_BYTES].hex()}; a CID was cut or garbled")


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
