"""Images and labels in IDX files (LeCun et al., 1998), plain or gzipped, known by their checksums."""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.errors import DataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIZE_LIMIT = 64 * 1024 * 1024  # of one unpacked file; the largest has 47 MB


def read_idx(checksums: Sequence[str], folder: Path) -> list[npt.NDArray[np.uint8]]:
    """Train images (n, h, w) and labels (n,), test images and labels: the four files with these MD5 sums (unpacked).

    Raises DataError that names the file which is not the genuine one.
    """
    return [_read(folder, file, md5) for file, md5 in zip(FILES, checksums, strict=True)]


def _read(folder: Path, file: str, md5: str) -> npt.NDArray[np.uint8]:
    """The array of an IDX file; the checksum is of the genuine file, so its header needs no further doubt."""
    content = _content(folder, file)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{folder / file} is not the genuine file (MD5 {found}, expected {md5}): fetch it again, or name another "
            "folder with --data-dir or FL_NODE_DATA_DIR if this one is another data set's"
        )
    dimensions = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def _content(folder: Path, file: str) -> bytes:
    plain, packed = folder / file, folder / f"{file}.gz"
    try:
        if plain.is_file():
            return _bounded(plain, plain.read_bytes() if plain.stat().st_size <= SIZE_LIMIT else None)
        with gzip.open(packed) as stream:
            content = stream.read(SIZE_LIMIT + 1)
            return _bounded(packed, content if len(content) <= SIZE_LIMIT else None)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{packed if not plain.is_file() else plain} can't be read ({error}): fetch it again"
        ) from error


def _bounded(path: Path, content: bytes | None) -> bytes:
    if content is None:
        raise DataError(f"{path} has more than {SIZE_LIMIT} bytes, so it is not the genuine file: fetch it again")
    return content
