"""Codecs: pure function pairs between flat parameters and the payload that peers get, by the name in the session.

Knows nothing of sessions. `encode` may keep what it left out (error feedback) in a residual that the caller holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from node.errors import ConfigError
from node.learning import parameters
from node.learning.parameters import ParameterSpec


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and what the codec left out of it (None for a lossless one): add it to the next update."""

    payload: bytes
    residual: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Codec:
    """A named pair of pure functions; decoding is deterministic and part of what the audit replays.

    `encode(spec, flat, residual)` gives the payload; `decode(spec, payload)` the vector (size,) that everyone mixes,
    or raises UpdateError; `size_limit(spec)` is the largest payload in bytes, known before one arrives.
    """

    name: str
    encode: Callable[[ParameterSpec, Tensor, Tensor | None], Encoded]
    decode: Callable[[ParameterSpec, bytes | bytearray | memoryview], Tensor]
    size_limit: Callable[[ParameterSpec], int]


def _encode_float32(spec: ParameterSpec, flat: Tensor, residual: Tensor | None) -> Encoded:
    del residual  # nothing is ever left out
    return Encoded(parameters.encode(spec, flat))


FLOAT32 = Codec("float32", _encode_float32, parameters.decode, lambda spec: spec.payload_size)
CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in (FLOAT32,)})


def codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError that lists the names there are."""
    if name not in CODECS:
        raise ConfigError(f"unknown codec {name!r}: choose one of {', '.join(sorted(CODECS))}")
    return CODECS[name]
