"""Payloads on disk read piece by piece: a model of any size is mixed, checked and taken over in a few MiB of scratch.

A `Vector` is what a flat tensor and a file have in common: a length, and float32 numbers by slices. Knows no peers.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from node.causes import Cause
from node.errors import UpdateError
from node.learning.parameters import BYTES_PER_NUMBER, ParameterSpec, decode, require_finite

CHUNK = 1 << 20  # numbers at a time: 4 MiB


class Vector(Protocol):
    """Numbers (size,), float32."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, part: slice) -> Tensor:
        """Those from start to stop."""


class FileVector:
    """The numbers of a `float32` payload in a file. UpdateError for a file that is no such payload of the model."""

    def __init__(self, spec: ParameterSpec, path: Path) -> None:
        self._spec, self._path, self._start = spec, path, len(spec.header)
        with path.open("rb") as file:
            header = file.read(self._start)
            size = os.fstat(file.fileno()).st_size
        if header != spec.header:
            decode(spec, header)  # says what is wrong with it
        if size != spec.payload_size:
            raise UpdateError(f"update is {size} bytes long: the model makes {spec.payload_size}", Cause.UPDATE_LENGTH)

    def __len__(self) -> int:
        """How many numbers."""
        return self._spec.size

    def __getitem__(self, part: slice) -> Tensor:
        """Those from start to stop."""
        start, stop, _ = part.indices(self._spec.size)
        offset = self._start + start * BYTES_PER_NUMBER
        numbers = np.fromfile(self._path, dtype="<f4", count=max(0, stop - start), offset=offset)
        if len(numbers) != stop - start:
            raise UpdateError(f"the payload {self._path.name} lost its end while it was read")
        return torch.from_numpy(numbers.astype(np.float32, copy=False))

    def require_finite(self) -> None:
        """Raises UpdateError that names the first number which is NaN or infinite."""
        for part in parts(len(self)):
            if not bool(torch.isfinite(self[part]).all()):
                require_finite(self._spec, self[:])  # all of it, only where something is wrong

    def copy_to(self, flat: Tensor) -> None:
        """Writes the numbers into a vector (size,)."""
        for part in parts(len(self)):
            flat[part] = self[part]


def parts(size: int, numbers: int = CHUNK) -> Iterator[slice]:
    """Slices that make up a vector, of so many numbers each but the last."""
    for start in range(0, size, numbers):
        yield slice(start, min(start + numbers, size))


def is_finite(flat: Tensor) -> bool:
    """Whether every number is."""
    return all(bool(torch.isfinite(flat[part]).all()) for part in parts(len(flat)))


def payload_pieces(spec: ParameterSpec, flat: Tensor) -> Iterator[bytes | memoryview]:
    """The `float32` payload, piece by piece, without a copy of the whole."""
    if flat.shape != (spec.size,):
        raise UpdateError(f"parameters of shape {tuple(flat.shape)}: the model has {spec.size} numbers")
    yield spec.header
    for part in parts(len(flat)):
        numbers = flat[part].detach().to(torch.float32).contiguous().numpy().astype("<f4", copy=False)
        yield numbers.data.cast("B")


def sha256_of(pieces: Iterable[bytes | memoryview]) -> bytes:
    """The SHA-256 of all of them, one after another."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
