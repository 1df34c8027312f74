"""A few numbers of a long vector as bits: where they are, their signs, and one magnitude per block of 256 of them.

Signs with a common magnitude (sparse ternary compression; Sattler et al., arXiv:1903.02891): at the same bytes, more
numbers coarsely bring more of a change across than fewer of them exactly, and error feedback sends the rest later.
Positions are the gaps between them in a Rice code, within a few percent of the entropy. Knows no chain and no model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.causes import Cause
from node.errors import UpdateError
from node.learning.codec_int8 import LARGEST_SCALE

BLOCK = 256  # numbers that share a magnitude
MAGNITUDE_BYTES = 4

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """`count` numbers of a vector of `size`: how long each part of their encoding is, in bytes."""

    count: int
    size: int

    @property
    def low_bits(self) -> int:
        """Bits of a gap that are written as they are, floor(log2(31/32 of the mean gap)); the rest of it is unary."""
        return max(1, 31 * self.size // (32 * self.count)).bit_length() - 1

    @property
    def magnitudes(self) -> int:
        """One little-endian float32 per block."""
        return MAGNITUDE_BYTES * -(-self.count // BLOCK)

    @property
    def signs(self) -> int:
        """One bit per number."""
        return -(-self.count // 8)

    @property
    def lows(self) -> int:
        """The low bits of all gaps."""
        return -(-self.count * self.low_bits // 8)

    @property
    def unary_limit(self) -> int:
        """The high parts of all gaps, at most: they add up to less than the vector's size."""
        return -(-(self.count + (self.size >> self.low_bits)) // 8)

    @property
    def limit(self) -> int:
        """The whole encoding, at most."""
        return self.magnitudes + self.signs + self.lows + self.unary_limit


def encode_sparse(layout: Layout, positions: Positions, numbers: Numbers) -> bytes:
    """Magnitudes, signs (1 = negative) and gaps of ascending positions (count,) and finite numbers (count,)."""
    blocks = np.zeros(layout.magnitudes // MAGNITUDE_BYTES * BLOCK, dtype=np.float64)
    blocks[: layout.count] = np.abs(numbers)
    filled = np.minimum(BLOCK, layout.count - np.arange(0, layout.count, BLOCK))
    magnitudes = np.minimum(blocks.reshape(-1, BLOCK).sum(axis=1) / filled, LARGEST_SCALE).astype("<f4")
    parts = (magnitudes.tobytes(), np.packbits(numbers < 0).tobytes(), encode_gaps(layout, positions))
    return b"".join(parts)


def decode_sparse(layout: Layout, body: memoryview) -> tuple[Positions, Numbers]:
    """Positions (count,), ascending, and the numbers there. Raises UpdateError for what no encoder writes."""
    signs_end = layout.magnitudes + layout.signs
    if not signs_end + layout.lows < len(body) <= layout.limit:
        raise UpdateError(
            f"{len(body)} bytes for {layout.count} numbers: expected at most {layout.limit}", Cause.UPDATE_LENGTH
        )
    magnitudes = np.frombuffer(body[: layout.magnitudes], dtype="<f4").astype(np.float32)
    if not bool(((magnitudes >= 0) & (magnitudes <= LARGEST_SCALE)).all()):
        what = f"a magnitude is negative, NaN or too large: expected 0 to {LARGEST_SCALE}"
        raise UpdateError(what, Cause.UPDATE_NUMBERS)
    negative = _bits(body[layout.magnitudes : signs_end], layout.count).astype(bool)
    numbers = np.repeat(magnitudes, BLOCK)[: layout.count]
    return decode_gaps(layout, body[signs_end:]), np.where(negative, -numbers, numbers)


def encode_gaps(layout: Layout, positions: Positions) -> bytes:
    """How many are skipped before each position: the low bits of all, then of each its high part as 0s and a 1."""
    skipped = np.diff(positions, prepend=-1) - 1
    shifts = np.arange(layout.low_bits - 1, -1, -1)
    lows = np.packbits(((skipped[:, None] >> shifts) & 1).astype(np.uint8).ravel())
    ends = np.cumsum((skipped >> layout.low_bits) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    unary[ends] = 1
    return lows.tobytes() + np.packbits(unary).tobytes()


def decode_gaps(layout: Layout, view: memoryview) -> Positions:
    """Ascending positions (count,) below the vector's size. Raises UpdateError for what no encoder writes."""
    low_bits = layout.low_bits
    flags = _bits(view[: layout.lows], layout.count * low_bits).reshape(layout.count, low_bits)
    lows = flags.astype(np.int64) @ (1 << np.arange(low_bits - 1, -1, -1, dtype=np.int64))
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(view[layout.lows :], dtype=np.uint8)))
    if len(ends) != layout.count or -(-(int(ends[-1]) + 1) // 8) != len(view) - layout.lows:
        what = f"the gaps give {len(ends)} positions, or have bytes to spare: expected {layout.count}"
        raise UpdateError(what, Cause.UPDATE_NUMBERS)
    skipped = (np.diff(ends, prepend=-1) - 1 << low_bits) + lows
    positions: Positions = np.cumsum(skipped + 1) - 1
    if positions[-1] >= layout.size:
        what = f"the gaps reach position {positions[-1]}: the model has {layout.size} numbers"
        raise UpdateError(what, Cause.UPDATE_NUMBERS)
    return positions


def _bits(view: memoryview, count: int) -> Bytes:
    """The first `count` bits; those that fill the last byte must be 0, so that every vector has one encoding."""
    bits = np.unpackbits(np.frombuffer(view, dtype=np.uint8))
    if bits[count:].any():
        raise UpdateError("the bits that fill a byte are not 0: no encoder writes that", Cause.UPDATE_NUMBERS)
    return bits[:count]
