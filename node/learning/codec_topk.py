"""topk: only the numbers that changed most, as differences from the member's own previous payload.

`topk:0.2` sends one number in five, in about five bits each (docs/protocol.md, section 3). A payload is either a *key
frame* (all numbers, as int8 blocks) or a *difference* that names the SHA-256 of the payload it builds on, always the
sender's own previous one. At most CHAIN differences follow a key frame. Why so:

- Sparse updates need a reference. Peers mix different cohorts at different times, so there is no vector that all have
  but the session's initial one, which is soon too far away. A receiver's own parameters would do only without a late or
  missed update. What a member announced before is on the ledger, by hash, for everybody.
- The hashes chain: the update hash in a record fixes the whole sum, so decoding stays a pure function of the bytes that
  the hash names, for the auditor too. Who missed payloads fetches them from any holder; they are small: a whole chain
  is about as large as one `float32` payload. Nobody can make another's payload depend on bytes that were withheld.
- Key frames bound what a late member or an auditor has to fetch, and a sender that lost its memory starts with one.

What was left out is sent later (error feedback), and the way back to the consensus is damped: CHOCO-SGD (Koloskova et
al., arXiv:1902.00340) with the residual in the caller's hands. Undamped, members send each other's progress back and
forth until it diverges. Knows no network: it asks `resolve` for earlier payloads, by hash.
"""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.codec_int8 import blocks_size, decode_blocks, encode_blocks
from node.learning.codec_sparse import Layout, decode_sparse, encode_sparse
from node.learning.codec_types import (
    MODEL_TAG_BYTES,
    Buffer,
    Codec,
    Encoded,
    Past,
    Reference,
    ReferenceMissing,
    Resolve,
    corrected,
    model_tag,
    nothing_held,
)
from node.learning.codec_zstd import PLAIN, Packing
from node.learning.parameters import ParameterSpec, require_finite

MAGIC = b"topk"
CHAIN = 31  # differences after a key frame, at most
GAMMA = 2.0  # times the ratio: the consensus step of CHOCO-SGD; beyond 3 to 5 members swing, then diverge
PREFIX = len(MAGIC) + MODEL_TAG_BYTES + 1  # the last byte is the depth: differences since the key frame
REFERENCE = 32 + 8  # hash and size


@dataclass(frozen=True, slots=True)
class Frame:
    """An unpacked payload: its place in the chain, what it builds on, and its numbers as bytes."""

    depth: int
    reference: Reference | None
    body: memoryview


@dataclass(frozen=True, slots=True)
class TopK:
    """How much is sent, and how it is packed."""

    ratio: float
    packing: Packing = PLAIN

    @property
    def consensus_step(self) -> float:
        """How much of the way from what was announced to the mixture one payload goes."""
        return min(0.5, GAMMA * self.ratio)

    def layout(self, spec: ParameterSpec) -> Layout:
        """Numbers in a difference, always exactly so many, and their encoding."""
        return Layout(max(1, round(self.ratio * spec.size)), spec.size)


def topk(ratio: float, packing: Packing = PLAIN) -> Codec:
    """The codec that sends this fraction of the numbers, from 0.001 to 0.5."""
    how = TopK(ratio, packing)
    return Codec(
        f"topk:{ratio:g}{packing.suffix}",
        partial(encode, how),
        partial(decode, how),
        lambda spec: packing.size_limit(plain_limit(how, spec)),
        lambda spec, payload: parse(how, spec, payload).reference,
        CHAIN,
    )


def encode(how: TopK, spec: ParameterSpec, flat: Tensor, residual: Tensor | None, past: Past | None = None) -> Encoded:
    """A difference from the previous payload, or a key frame where that is not at hand or its chain is full."""
    before = _previous(how, spec, past)
    if past is None or before is None:
        return _key_frame(how, spec, corrected(flat, residual))
    announced, reference, depth = before
    change = corrected(flat - past.start, residual) + how.consensus_step * (past.start - announced)
    if depth >= CHAIN:
        return _key_frame(how, spec, announced + change)
    layout = how.layout(spec)
    positions = change.abs().topk(layout.count, sorted=False).indices.sort().values
    body = encode_sparse(layout, positions.numpy(), change[positions].numpy())
    sent = torch.from_numpy(decode_sparse(layout, memoryview(body))[1])
    names = reference.digest + reference.size.to_bytes(8, "big")
    raw = MAGIC + model_tag(spec) + bytes([depth + 1]) + names + body
    # what a receiver will compute, so that no rounding is ever forgotten
    left = change.index_copy(0, positions, (announced + change)[positions] - (announced[positions] + sent))
    return Encoded(how.packing.pack(raw), left)


def decode(how: TopK, spec: ParameterSpec, payload: Buffer, resolve: Resolve = nothing_held) -> Tensor:
    """The flat vector (size,): the chain's key frame, and its differences added in order, each sum rounded."""
    frames = [parse(how, spec, payload)]
    while (reference := frames[-1].reference) is not None:
        frames.append(_earlier(how, spec, frames[-1].depth, fetch(reference, resolve)))
    flat = torch.from_numpy(decode_blocks(frames.pop().body, spec.size))
    while frames:
        positions, numbers = map(torch.from_numpy, decode_sparse(how.layout(spec), frames.pop().body))
        flat[positions] = flat[positions] + numbers
    require_finite(spec, flat)
    return flat


def fetch(reference: Reference, resolve: Resolve) -> bytes:
    """The payload of a reference, its hash verified. Raises ReferenceMissing when it is not here, or damaged."""
    found = resolve(reference.digest)
    if found is None or len(found) != reference.size or hashlib.sha256(found).digest() != reference.digest:
        raise ReferenceMissing(reference)
    return found


def parse(how: TopK, spec: ParameterSpec, payload: Buffer) -> Frame:
    """The frame in a payload. Raises UpdateError naming what differs from what the codec writes."""
    raw = memoryview(how.packing.unpack(payload, plain_limit(how, spec)))
    if bytes(raw[: PREFIX - 1]) != MAGIC + model_tag(spec) or len(raw) <= PREFIX:
        what = "update is not a topk payload of the model: its sender must use the session's task and codec"
        raise UpdateError(what, Cause.UPDATE_HEADER)
    depth = raw[PREFIX - 1]
    if depth == 0:
        return Frame(0, None, raw[PREFIX:])
    if depth > CHAIN:
        what = f"update is {depth} differences after a key frame: at most {CHAIN} are allowed"
        raise UpdateError(what, Cause.UPDATE_REFERENCE)
    names, body = raw[PREFIX : PREFIX + REFERENCE], raw[PREFIX + REFERENCE :]
    reference = Reference(bytes(names[:32]), int.from_bytes(names[32:], "big"))
    limit = how.packing.size_limit(plain_limit(how, spec))
    if len(names) < REFERENCE or not 0 < reference.size <= limit:
        what = f"update builds on a payload of {reference.size} bytes: the codec makes at most {limit}"
        raise UpdateError(what, Cause.UPDATE_REFERENCE)
    return Frame(depth, reference, body)


def plain_limit(how: TopK, spec: ParameterSpec) -> int:
    """Bytes of the largest payload before it is packed: a key frame, or a difference with a high ratio."""
    return PREFIX + max(blocks_size(spec.size), REFERENCE + how.layout(spec).limit)


def _key_frame(how: TopK, spec: ParameterSpec, wanted: Tensor) -> Encoded:
    blocks = encode_blocks(wanted.numpy())
    decoded = torch.from_numpy(decode_blocks(memoryview(blocks), spec.size))
    return Encoded(how.packing.pack(MAGIC + model_tag(spec) + bytes([0]) + blocks), wanted - decoded)


def _previous(how: TopK, spec: ParameterSpec, past: Past | None) -> tuple[Tensor, Reference, int] | None:
    """What our previous payload decodes to, its name and its depth; None where we cannot build on it."""
    payload = past.resolve(past.announced) if past is not None and past.announced is not None else None
    if past is None or past.announced is None or payload is None:
        return None
    try:
        announced = decode(how, spec, payload, past.resolve)
        return announced, Reference(past.announced, len(payload)), parse(how, spec, payload).depth
    except UpdateError:
        return None  # a damaged or incomplete store of our own: the next key frame mends it


def _earlier(how: TopK, spec: ParameterSpec, depth: int, payload: bytes) -> Frame:
    """The frame one step down the chain; the depth falls by one each step, so that chains end."""
    frame = parse(how, spec, payload)
    if frame.depth != depth - 1:
        what = f"update at depth {depth} builds on one at depth {frame.depth}: expected {depth - 1}"
        raise UpdateError(what, Cause.UPDATE_REFERENCE)
    return frame
