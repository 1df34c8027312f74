"""bfloat16: half the bytes, 8 bits of precision. A safetensors file like the `float32` one; knows no other codec.

What rounding left out goes into the next update (error feedback), so that steps smaller than a rounding are not lost.
"""

import numpy as np
import torch
from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.codec_types import Buffer, Codec, Encoded, Past, Resolve, corrected, nothing_held, stands_alone
from node.learning.parameters import ParameterSpec, require_finite, safetensors_header

BYTES_PER_NUMBER = 2


def header(spec: ParameterSpec) -> bytes:
    """Length and JSON header of the safetensors file: the only one that is accepted."""
    return safetensors_header(spec, "BF16", BYTES_PER_NUMBER)


def encode(spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
    """The numbers rounded to the nearest bfloat16, ties to even."""
    del past
    wanted = corrected(flat, residual)
    rounded = wanted.to(torch.bfloat16)
    words = rounded.view(torch.uint16).numpy().astype("<u2", copy=False)
    return Encoded(header(spec) + words.tobytes(), wanted - rounded.float())


def decode(spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
    """The flat vector (size,): each 16-bit word is the upper half of a float32."""
    del resolve
    view, expected = memoryview(payload), header(spec)
    if len(view) != size_limit(spec) or bytes(view[: len(expected)]) != expected:
        raise UpdateError(
            f"update of {len(view)} bytes is not the model's bfloat16 payload of {size_limit(spec)}: "
            "its sender must use the session's task and codec",
            Cause.UPDATE_HEADER if len(view) == size_limit(spec) else Cause.UPDATE_LENGTH,
        )
    words = np.frombuffer(view, dtype="<u2", offset=len(expected)).astype(np.uint32)
    flat = torch.from_numpy((words << np.uint32(16)).view(np.float32))
    require_finite(spec, flat)
    return flat


def size_limit(spec: ParameterSpec) -> int:
    """Bytes of every payload."""
    return len(header(spec)) + spec.size * BYTES_PER_NUMBER


BFLOAT16 = Codec("bfloat16", encode, decode, size_limit, stands_alone)
