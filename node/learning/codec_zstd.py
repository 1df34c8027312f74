"""Packing of payloads by zstd (RFC 8878) on top of another codec, bounded before anything is allocated.

Packs bytes; knows no numbers. A frame must state its content size, which must be within what the codec can make.
"""

from collections.abc import Callable
from dataclasses import dataclass

import zstandard
from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.codec_types import Buffer, Codec, Encoded, Past, Reference, Resolve, nothing_held
from node.learning.parameters import ParameterSpec

LEVEL = 3


@dataclass(frozen=True, slots=True)
class Packing:
    """A pair of functions on bytes; `unpack(payload, limit)` gives at most `limit` bytes or raises UpdateError."""

    suffix: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[Buffer, int], Buffer]
    size_limit: Callable[[int], int]  # bytes packed, of so many bytes unpacked


def pack(content: bytes) -> bytes:
    """One zstd frame that states its content size."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(content)


def unpack(payload: Buffer, limit: int) -> bytes:
    """The content of exactly one frame, of at most `limit` bytes."""
    try:
        size = zstandard.get_frame_parameters(payload).content_size
        if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) or size > limit:
            what = f"update would unpack to {size} bytes: the model makes at most {limit}"
            raise UpdateError(what, Cause.UPDATE_BOMB)
        content = zstandard.ZstdDecompressor().decompress(payload, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        what = f"update is not one zstd frame ({error}): its sender must use the session's codec"
        raise UpdateError(what, Cause.UPDATE_NOT_PACKED) from error
    return content


def packed_limit(size: int) -> int:
    """Bytes that packing makes of `size` at most (ZSTD_COMPRESSBOUND)."""
    return size + (size >> 8) + (max(0, (128 << 10) - size) >> 11)


def keep(content: Buffer, limit: int) -> Buffer:
    """The content as it is, if it is within the limit."""
    if len(content) > limit:
        raise UpdateError(f"update is {len(content)} bytes long: the model makes at most {limit}", Cause.UPDATE_LENGTH)
    return content


PLAIN = Packing("", lambda content: content, keep, lambda size: size)
ZSTD = Packing("+zstd", pack, unpack, packed_limit)


def packed(codec: Codec, packing: Packing) -> Codec:
    """A codec without references, with its payloads packed."""

    def encode(spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
        encoded = codec.encode(spec, flat, residual, past)
        return Encoded(packing.pack(encoded.payload), encoded.residual)

    def decode(spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
        return codec.decode(spec, packing.unpack(payload, codec.size_limit(spec)), resolve)

    def size_limit(spec: ParameterSpec) -> int:
        return packing.size_limit(codec.size_limit(spec))

    def reference(spec: ParameterSpec, payload: Buffer) -> Reference | None:
        return codec.reference(spec, packing.unpack(payload, codec.size_limit(spec)))

    return Codec(codec.name + packing.suffix, encode, decode, size_limit, reference, exact=codec.exact)
