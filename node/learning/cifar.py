"""CIFAR-10 (Krizhevsky, 2009) in its own Python format, through torchvision's loader.

That format is pickled, and a pickle can run code. So no byte is unpickled before every file has the MD5 sum of the
genuine one, which nobody can make another file for; torchvision looks once more.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.errors import DataError
from node.learning.torchvision_shim import import_torchvision

FOLDER = "cifar-10-batches-py"
SIZE_LIMIT = 64 * 1024 * 1024  # of one file; the largest has 31 MB


def read_cifar10(folder: Path) -> list[npt.NDArray[np.uint8]]:
    """Train images (50000, 3, 32, 32) and labels (50000,), test images and labels, below `folder`.

    Raises DataError that names the file which is not the genuine one.
    """
    loader: Any = import_torchvision().datasets.CIFAR10
    for name, md5 in (*loader.train_list, *loader.test_list, (loader.meta["filename"], loader.meta["md5"])):
        _require_genuine(folder / FOLDER / name, md5)
    arrays = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)  # the files are older than NumPy 2
        for part in (loader(folder, train=True), loader(folder, train=False)):
            arrays += [np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.uint8)]
    return arrays


def _require_genuine(path: Path, md5: str) -> None:
    try:
        with path.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): fetch it again") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path} is not the genuine file (MD5 {found}, expected {md5}): fetch it again")
