"""Codecs: pure function pairs between flat parameters and the payload that peers get, by the name in the session.

    float32         exact: a safetensors file
    bfloat16        half the bytes
    int8            a quarter of the bytes
    topk:RATIO      differences of the numbers that changed most; topk:0.2 has about 4% of the bytes
    …+zstd          any of these, packed

Differences from the previous update pay for topk only: exact ones (XOR, shuffled, zstd) still had 65 % of the bytes of
float32 on the small CNN, too many for the bother of a chain. Knows nothing of sessions. What an encoder left out (error
feedback) is a residual that the caller holds.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from node.causes import Cause
from node.errors import ConfigError, UpdateError
from node.learning import parameters
from node.learning.codec_bfloat16 import BFLOAT16
from node.learning.codec_int8 import INT8
from node.learning.codec_topk import topk
from node.learning.codec_types import (
    Buffer,
    Codec,
    Encoded,
    Past,
    Reference,
    ReferenceMissing,
    Resolve,
    nothing_held,
    stands_alone,
)
from node.learning.codec_zstd import PLAIN, ZSTD, Packing, packed
from node.learning.parameters import ParameterSpec

__all__ = [
    "CODECS",
    "FLOAT32",
    "Codec",
    "Encoded",
    "Past",
    "Reference",
    "ReferenceMissing",
    "Resolve",
    "chain",
    "codec",
    "nothing_held",
]

LOWEST_RATIO, HIGHEST_RATIO = 0.001, 0.5  # below it hardly moves; above, int8 is as small


def _encode_float32(spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
    del residual, past  # nothing is ever left out
    return Encoded(parameters.encode(spec, flat))


def _decode_float32(spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
    del resolve
    return parameters.decode(spec, payload)


FLOAT32 = Codec("float32", _encode_float32, _decode_float32, lambda spec: spec.payload_size, stands_alone, exact=True)
CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in (FLOAT32, BFLOAT16, INT8)})


def codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError that lists the names there are."""
    base, plus, suffix = name.partition("+")
    packing = ZSTD if plus and suffix == "zstd" else PLAIN
    if not plus or packing is ZSTD:
        if base in CODECS:
            return packed(CODECS[base], packing) if plus else CODECS[base]
        if base.startswith("topk:"):
            return _topk(name, base.removeprefix("topk:"), packing)
    names = ", ".join([*CODECS, "topk:RATIO"])
    raise ConfigError(f"unknown codec {name!r}: choose one of {names}, each also with +zstd")


def chain(codec: Codec, spec: ParameterSpec, payload: Buffer, resolve: Resolve) -> tuple[Reference, ...]:
    """What a payload builds on, directly and indirectly, newest first: keep these as long as the payload itself.

    Raises UpdateError like `decode`, so ReferenceMissing where one of them is not here; also for more than `depth`.
    """
    found: list[Reference] = []
    while (reference := codec.reference(spec, payload)) is not None:
        if len(found) == codec.depth:
            what = f"update builds on more than {codec.depth} earlier ones: the codec makes no such payload"
            raise UpdateError(what, Cause.UPDATE_REFERENCE)
        found.append(reference)
        earlier = resolve(reference.digest)
        if earlier is None:
            raise ReferenceMissing(reference)
        payload = earlier
    return tuple(found)


def _topk(name: str, text: str, packing: Packing) -> Codec:
    """One spelling for each ratio, since the name is part of what members sign."""
    ratio = float(text) if re.fullmatch(r"0\.\d{1,4}", text) else 0.0
    if not LOWEST_RATIO <= ratio <= HIGHEST_RATIO or f"{ratio:g}" != text:
        raise ConfigError(
            f"codec {name!r}: the ratio of topk is a number from {LOWEST_RATIO} to {HIGHEST_RATIO} "
            "without trailing zeros, such as topk:0.2"
        )
    return topk(ratio, packing)
