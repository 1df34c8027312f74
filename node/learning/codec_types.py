"""What a codec is: values and function types that the codecs and their callers share. Knows no particular codec."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.parameters import ParameterSpec

Buffer = bytes | bytearray | memoryview
Resolve = Callable[[bytes], bytes | None]  # SHA-256 of a payload -> the payload, None where it is not here
MODEL_TAG_BYTES = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """The earlier payload of the same member that a payload builds on."""

    digest: bytes  # SHA-256, 32 bytes
    size: int  # bytes


class ReferenceMissing(UpdateError):
    """A payload that nothing is wrong with so far, but whose `reference` is not here: fetch that and decode again."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        digest = reference.digest.hex()
        what = f"update builds on the payload {digest} ({reference.size} bytes), which is not here: fetch it"
        super().__init__(what, Cause.UPDATE_REFERENCE)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and what the codec left out of it (None for a lossless one): hand it to the next `encode`."""

    payload: bytes
    residual: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a sender knows of its own previous update; only codecs with references look at it."""

    start: Tensor  # (size,), the mixed parameters that this round's training began from
    announced: bytes | None  # SHA-256 of the previous payload of this member, None before the first
    resolve: Resolve  # must find that payload and what it builds on; a key frame is sent when it does not


def nothing_held(digest: bytes) -> bytes | None:
    """The `Resolve` of somebody who has no earlier payloads."""
    del digest
    return None


class Encode(Protocol):
    """`(spec, flat, residual, past) -> Encoded`, deterministic on one machine."""

    def __call__(self, spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
        """The payload of finite parameters (size,)."""


class Decode(Protocol):
    """`(spec, payload, resolve) -> flat`: a pure function of the bytes and of what their hashes name."""

    def __call__(self, spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
        """The finite vector (size,). Raises UpdateError; ReferenceMissing where an earlier payload is needed."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A named pair of pure functions; decoding is deterministic and part of what the audit replays.

    `decode` gives the vector (size,) that everyone mixes, the sender too. `size_limit(spec)` is the largest payload in
    bytes, known before one arrives. `reference(spec, payload)` is what a payload directly builds on, None for one that
    stands alone; it raises UpdateError like `decode`. `depth` is how many earlier payloads one may build on, at
    most; an `exact` codec leaves nothing out.
    """

    name: str
    encode: Encode
    decode: Decode
    size_limit: Callable[[ParameterSpec], int]
    reference: Callable[[ParameterSpec, Buffer], Reference | None]
    depth: int = 0
    exact: bool = False


def stands_alone(spec: ParameterSpec, payload: Buffer) -> Reference | None:
    """The `reference` of a codec that never needs one."""
    del spec, payload
    return None


def model_tag(spec: ParameterSpec) -> bytes:
    """First 8 bytes of the SHA-256 of the model's `float32` header: names, shapes and order in one word."""
    return hashlib.sha256(spec.header).digest()[:MODEL_TAG_BYTES]


def corrected(flat: Tensor, residual: Tensor | None) -> Tensor:
    """The parameters plus what the previous payload left out of them (error feedback, Seide et al., 2014)."""
    return flat if residual is None or residual.shape != flat.shape else flat + residual
