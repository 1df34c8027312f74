"""The coordinator's side of `data = "served"`: the data set cut into splits, kept as files that learners pull by hash.

Once cut, a home's splits stay as they are: after a restart the manifest has the same hash. Knows no network.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.config import Shares
from node.daemon.spool import tensor_pieces
from node.errors import ConfigError, DataError, HomeError
from node.files import write_atomically
from node.learning.served import cut, tensors_of
from node.learning.task import Examples
from node.learning.vectors import sha256_of
from node.messages import Content

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 << 20
HASH = r"^[0-9a-f]{64}$"


class Split(BaseModel):
    """One learner's part."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    sha256: str = Field(pattern=HASH)
    bytes: int = Field(ge=1, le=2**40)
    examples: int = Field(ge=1, le=2**40)


class Manifest(BaseModel):
    """Every split, in the order of the learners' places."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    splits: tuple[Split, ...] = Field(min_length=1, max_length=65_535)


def read_manifest(content: bytes) -> Manifest:
    """The manifest that these bytes are. Raises DataError."""
    try:
        return Manifest.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise DataError(f"a manifest of {len(content)} bytes names no splits: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files that a coordinator gives away, by their hashes; implements the network's source of payloads."""

    directory: Path

    def open(self, digest: bytes) -> Path | None:
        """The file of that hash, None if it is none of these."""
        path = self.directory / digest.hex()
        return path if path.is_file() else None

    def manifest(self) -> Content | None:
        """What learners are told: the manifest's hash and size; None before the data set was cut."""
        path = self.directory / MANIFEST
        if not path.is_file():
            return None
        content = path.read_bytes()
        return Content(hashlib.sha256(content).digest(), len(content))


def hand_out(directory: Path, whole: Examples, shares: Shares, seed: int) -> Shelf:
    """Cuts a data set, unless this home has done so before. ConfigError for a split that can't be, or is too large."""
    shelf, kept = Shelf(directory), directory / MANIFEST
    if kept.is_file():
        _require_files(shelf, read_manifest(kept.read_bytes()))
        return shelf
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    splits = [
        _keep(shelf, whole.rows(torch.from_numpy(rows)), shares.bytes)
        for rows in cut(whole, shares.split, shares.count, seed)
    ]
    content = orjson.dumps({"splits": [split.model_dump() for split in splits]})
    write_atomically(directory / hashlib.sha256(content).hexdigest(), content)
    write_atomically(kept, content)
    return shelf


def _keep(shelf: Shelf, examples: Examples, limit: int) -> Split:
    pieces = tensor_pieces(tensors_of(examples))
    size, digest = sum(map(len, pieces)), sha256_of(pieces)
    if size > limit:
        raise ConfigError(
            f"a split of {len(examples)} examples takes {size:,} bytes, over the session's {limit:,}: create it with "
            "more --members or a larger --split-bytes"
        )
    write_atomically(shelf.directory / digest.hex(), pieces)
    return Split(sha256=digest.hex(), bytes=size, examples=len(examples))


def _require_files(shelf: Shelf, manifest: Manifest) -> None:
    for split in manifest.splits:
        path = shelf.open(bytes.fromhex(split.sha256))
        if path is None or path.stat().st_size != split.bytes:
            raise HomeError(
                f"the split {shelf.directory / split.sha256} is missing or damaged: restore it, or remove "
                f"{shelf.directory} if no learner has started yet"
            )
