"""What is moved: a model as safetensors, its hash, and back to tensors."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load, save

CHUNK = 1 << 20
LAYER = 25_000_000  # largest tensor, parameters

Get = Callable[[], None]  # one transfer, from request to verified tensors


def make_model(size: int) -> dict[str, torch.Tensor]:
    """Random float32 tensors of about `size` bytes together, in layers as a network would have them."""
    generator = torch.Generator().manual_seed(1)
    left, tensors = size // 4, {}
    while left:
        count = min(left, LAYER)
        tensors[f"layer{len(tensors):03d}"] = torch.rand(count, generator=generator)
        left -= count
    return tensors


def pack(model: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
    payload = save(model)
    return payload, hashlib.sha256(payload).digest()


def unpack(payload: bytes | bytearray, digest: bytes) -> dict[str, torch.Tensor]:
    if hashlib.sha256(payload).digest() != digest:
        raise SystemExit("the payload is not what was sent")
    return load(bytes(payload) if isinstance(payload, bytearray) else payload)


def chunks(payload: bytes) -> Iterator[memoryview]:
    view = memoryview(payload)
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]
