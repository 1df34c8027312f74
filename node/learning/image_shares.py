"""A member's part of an image data set. Files are read and verified once per process, however many members it has."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from node.learning.datasets import ImageSet, find_images, read_images
from node.learning.splits import Indices, partition, train_validation
from node.learning.task import Examples, LocalSplit, Share

HELD_OUT_SEED = 60_000


def image_share(dataset: str, share: Share) -> LocalSplit:
    """A member's part of an image data set, split 80:20, and the whole held-out test set, which all members share.

    Raises DataError when the data set is missing or corrupt, ConfigError when it can't be split so.
    """
    folder = find_images(dataset, share.data_dir).resolve()
    images, test = _images(dataset, folder, share.held_out)
    parts = _parts(dataset, folder, share.held_out, (share.split, share.shares, share.seed))
    train, validation = train_validation(parts[share.index])
    return LocalSplit(_examples(images, train), _examples(images, validation), test)


def without_test_set(images: ImageSet) -> ImageSet:
    """The data set with a sixth of its training images, the same at each call, in the place of the test images."""
    order = torch.randperm(len(images.train_labels), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    held, kept = order[: len(order) // 6], order[len(order) // 6 :]
    return replace(
        images,
        train_images=images.train_images[kept],
        train_labels=images.train_labels[kept],
        test_images=images.train_images[held],
        test_labels=images.train_labels[held],
    )


def _examples(images: ImageSet, indices: Indices) -> Examples:
    rows = torch.from_numpy(indices)
    return Examples(images.normalised(images.train_images[rows]), images.train_labels[rows])


@lru_cache(maxsize=2)
def _images(dataset: str, folder: Path, held_out: bool) -> tuple[ImageSet, Examples]:
    """The verified bytes, and the normalised test set."""
    images = read_images(dataset, folder)
    if held_out:
        images = without_test_set(images)
    return images, Examples(images.normalised(images.test_images), images.test_labels)


@lru_cache(maxsize=4)
def _parts(dataset: str, folder: Path, held_out: bool, dealt: tuple[str, int, int]) -> list[Indices]:
    """Everybody's part; `dealt` is split, shares and seed."""
    images, _ = _images(dataset, folder, held_out)
    return partition(images.train_labels.numpy(), *dealt)
