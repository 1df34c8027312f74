"""Where payloads and checkpoints lie that are too large for the memory: files in the home, written piece by piece.

A file here belongs to whoever holds its path; what a killed node left behind goes at the next start.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from node.errors import HomeError
from node.files import Piece
from node.session.ports import Payload

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class Spool:
    """Payloads of more than `above` bytes become files in `directory`; without one all stay in memory."""

    directory: Path | None = None
    above: int = 64 << 20

    def keep(self, pieces: Iterable[Piece], size: int) -> tuple[Payload, bytes]:
        """The payload that the pieces make, in memory or as a file, and its SHA-256. HomeError on a full disk."""
        if self.directory is None or size <= self.above:
            content = b"".join(pieces)
            return content, hashlib.sha256(content).digest()
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix="fl-node-", suffix=".payload", dir=self.directory)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise HomeError(f"cannot write {size:,} bytes to {self.directory}: {error.strerror}: free space") from error
        return path, digest.digest()


def open_spool(directory: Path) -> Path:
    """The directory, made, without what an earlier run left there."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in directory.glob("fl-node-*.payload"):
        left.unlink(missing_ok=True)
    return directory


def tensor_pieces(tensors: Mapping[str, Tensor]) -> list[Piece]:
    """A safetensors file of these tensors, piece by piece; the pieces are the tensors' own memory."""
    entries, start = {}, 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces: list[Piece] = [len(text).to_bytes(8, "little") + text]
    for tensor in tensors.values():
        if tensor.numel():
            pieces.append(tensor.detach().contiguous().reshape(-1).numpy().data.cast("B"))
    return pieces


def load_tensors(checkpoint: bytes | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of its bytes; a file's are its pages until they are changed."""
    tensors: dict[str, Tensor]
    if isinstance(checkpoint, Path):
        tensors = safetensors.torch.load_file(checkpoint)
    else:
        tensors = safetensors.torch.load(checkpoint)
    return tensors
