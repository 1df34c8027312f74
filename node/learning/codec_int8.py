"""int8: a quarter of the bytes. Blocks of 256 numbers share a scale, each number is a signed byte times it.

What rounding left out goes into the next update (error feedback), so that steps smaller than a rounding are not lost.
The blocks are used by the `topk` codec too; knows nothing of it. (Dettmers et al., arXiv:2110.02861, for blocks.)
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.codec_types import (
    MODEL_TAG_BYTES,
    Buffer,
    Codec,
    Encoded,
    Past,
    Resolve,
    corrected,
    model_tag,
    nothing_held,
    stands_alone,
)
from node.learning.parameters import ParameterSpec, require_finite

MAGIC = b"int8"
BLOCK = 256  # numbers that share a scale
LEVELS = 127  # the byte -128 is not used: every vector has one encoding
SCALE_BYTES = 4
LARGEST_SCALE = np.float32(2.6793e36)  # times 127 it is still finite


def blocks_size(count: int) -> int:
    """Bytes that `count` numbers take as blocks."""
    return SCALE_BYTES * -(-count // BLOCK) + count


def encode_blocks(numbers: npt.NDArray[np.float32]) -> bytes:
    """Scales (little-endian float32, one per block), then one signed byte per number; the input must be finite.

    A number is off by at most half a scale, and a scale is the block's largest magnitude / 127.
    """
    count = len(numbers)
    padded = np.zeros(-(-count // BLOCK) * BLOCK, dtype=np.float32)
    padded[:count] = numbers
    rows = padded.reshape(-1, BLOCK)
    scales = np.minimum(np.abs(rows).max(axis=1, initial=0) / np.float32(LEVELS), LARGEST_SCALE)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    levels = np.clip(np.rint(rows / divisors[:, None]), -LEVELS, LEVELS).astype(np.int8)
    encoded: bytes = scales.astype("<f4").tobytes() + levels.tobytes()[:count]
    return encoded


def decode_blocks(view: memoryview, count: int) -> npt.NDArray[np.float32]:
    """The numbers (count,): byte times scale, rounded once. Raises UpdateError for what no encoder writes."""
    if len(view) != blocks_size(count):
        raise UpdateError(
            f"{len(view)} bytes of blocks for {count} numbers: expected {blocks_size(count)}", Cause.UPDATE_LENGTH
        )
    width = blocks_size(count) - count
    scales = np.frombuffer(view[:width], dtype="<f4").astype(np.float32)
    levels = np.frombuffer(view[width:], dtype=np.int8)
    if not bool(((scales >= 0) & (scales <= LARGEST_SCALE)).all()):
        what = "a block's scale is negative, NaN or too large: scales lie between 0 and 2.6793e36"
        raise UpdateError(what, Cause.UPDATE_NUMBERS)
    if bool((levels == -LEVELS - 1).any()):
        raise UpdateError("a block holds the byte -128: levels lie between -127 and 127", Cause.UPDATE_NUMBERS)
    numbers = levels.astype(np.float32)
    numbers *= np.repeat(scales, BLOCK)[:count]
    return numbers


def encode(spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
    """The payload, and what it leaves out of the numbers."""
    del past
    wanted = corrected(flat, residual)
    body = encode_blocks(wanted.numpy())
    decoded = torch.from_numpy(decode_blocks(memoryview(body), spec.size))
    return Encoded(MAGIC + model_tag(spec) + body, wanted - decoded)


def decode(spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
    """The flat vector (size,)."""
    del resolve
    view, expected = memoryview(payload), MAGIC + model_tag(spec)
    if len(view) != size_limit(spec) or bytes(view[: len(expected)]) != expected:
        raise UpdateError(
            f"update of {len(view)} bytes is not the model's int8 payload of {size_limit(spec)}: "
            "its sender must use the session's task and codec",
            Cause.UPDATE_HEADER if len(view) == size_limit(spec) else Cause.UPDATE_LENGTH,
        )
    flat = torch.from_numpy(decode_blocks(view[len(expected) :], spec.size))
    require_finite(spec, flat)
    return flat


def size_limit(spec: ParameterSpec) -> int:
    """Bytes of every payload."""
    return len(MAGIC) + MODEL_TAG_BYTES + blocks_size(spec.size)


INT8 = Codec("int8", encode, decode, size_limit, stands_alone)
