"""Decoders of updates as functions of bytes; and a coverage-guided fuzzer for them.

`python -m tests.learning.fuzz TARGET SECONDS [FOLDER]` starts from corpus/TARGET, which the tests replay, and looks for
payloads that make a decoder raise anything but UpdateError, or give what is no vector of the model.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["node.learning"]):
        import node.learning.codecs  # noqa: F401

import hashlib

import torch

from node.errors import UpdateError
from node.learning import parameters
from node.learning.codec_types import Past
from node.learning.codec_zstd import pack, unpack
from node.learning.codecs import chain, codec
from node.learning.parameters import ParameterSpec

CORPUS = Path(__file__).parent / "corpus"
SPEC = ParameterSpec(("bias", "weight"), ((3,), (3, 40)))
FLAT = torch.linspace(-1, 1, SPEC.size)


def good(name: str) -> bytes:
    """A payload as its codec makes it."""
    return codec(name).encode(SPEC, FLAT, None, None).payload


def held() -> dict[bytes, bytes]:
    """Earlier payloads of a sender of differences: a key frame, and a difference that builds on it."""
    first = good("topk:0.2")
    kept = {hashlib.sha256(first).digest(): first}
    past = Past(FLAT, next(iter(kept)), kept.get)
    second = codec("topk:0.2").encode(SPEC, FLAT * 2, None, past).payload
    return kept | {hashlib.sha256(second).digest(): second}


HELD = held()
KINDS = ("float32", "bfloat16", "int8")


def decodes(name: str, payload: bytes) -> None:
    """Either a finite vector of the model, the same one twice, or an UpdateError."""
    with suppress(UpdateError):
        flat = codec(name).decode(SPEC, payload, HELD.get)
        assert flat.shape == (SPEC.size,)
        assert bool(torch.isfinite(flat).all())
        assert flat.equal(codec(name).decode(SPEC, payload, HELD.get))
        assert len(payload) <= codec(name).size_limit(SPEC)


def update(data: bytes) -> None:
    """The first byte says which codec; the rest stands alone, then as the end and the beginning of a true payload."""
    name, rest = KINDS[data[0] % 3 if data else 0], data[1:]
    true = good(name)
    decodes(name, rest)
    decodes(name, true[: max(0, len(true) - len(rest))] + rest)
    decodes(name, rest + true[len(rest) :])


def topk(data: bytes) -> None:
    """The first byte says whether a true beginning stands before the rest."""
    first, second = HELD.values()
    start = (b"", first[:13], second[:13], second[:53])[data[0] % 4 if data else 0]
    payload = start + data[1:]
    decodes("topk:0.2", payload)
    with suppress(UpdateError):
        assert len(chain(codec("topk:0.2"), SPEC, payload, HELD.get)) <= codec("topk:0.2").depth


def packed(data: bytes) -> None:
    """Frames, and what is in frames; nothing unpacks to more than its limit."""
    with suppress(UpdateError):
        assert len(unpack(data, 100)) <= 100
    for name in (*KINDS, "topk:0.2"):
        decodes(f"{name}+zstd", data)
        decodes(f"{name}+zstd", pack(data))


def header(data: bytes) -> None:
    """A safetensors header of anybody's making before the model's numbers."""
    numbers = parameters.encode(SPEC, FLAT)[len(SPEC.header) :]
    decodes("float32", len(data).to_bytes(8, "little") + data + numbers)


def payload(data: bytes) -> None:
    """All of these, by the first byte: torch takes long to import, so one process fuzzes them together."""
    (update, topk, packed, header)[data[0] % 4 if data else 0](data[1:])


TARGETS: dict[str, Callable[[bytes], None]] = {"payload": payload}

if __name__ == "__main__":
    from tests.fuzzing import fuzz

    fuzz(TARGETS, CORPUS)
