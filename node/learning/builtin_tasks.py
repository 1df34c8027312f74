"""The built-in tasks: softmax regression and a small CNN on MNIST and Fashion-MNIST."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from node.learning.datasets import ImageSet, load_images
from node.learning.models import small_cnn, softmax_regression
from node.learning.splits import Indices, partition, train_validation
from node.learning.task import Examples, LocalSplit, Share, Task

CLASSES = 10
HELD_OUT_SEED = 60_000


def image_share(dataset: str, share: Share) -> LocalSplit:
    """A member's part of an image data set, split 80:20, and the whole held-out test set.

    Raises DataError when the data set is missing or corrupt, ConfigError when it can't be split so.
    """
    images = load_images(dataset, share.data_dir)
    if share.held_out:
        images = without_test_set(images)
    parts = partition(images.train_labels.numpy(), share.split, share.shares, share.seed)
    train, validation = train_validation(parts[share.index])
    test = Examples(images.normalised(images.test_images), images.test_labels)
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


def softmax_task(dataset: str) -> Task:
    """Softmax regression (7,850 numbers)."""
    return Task(
        name=f"{dataset}-softmax",
        model=softmax_regression,
        data=partial(image_share, dataset),
        classes=CLASSES,
        learning_rate=0.05,
        batch_size=64,
    )


def cnn_task(dataset: str) -> Task:
    """A small CNN with GroupNorm (22,000 numbers)."""
    return Task(
        name=f"{dataset}-cnn",
        model=small_cnn,
        data=partial(image_share, dataset),
        loss=nn.functional.cross_entropy,
        classes=CLASSES,
        learning_rate=0.05,
        momentum=0.9,
        batch_size=64,
    )


BUILTIN_TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {
        f"{dataset}-{kind}": partial(make, dataset)
        for dataset in ("mnist", "fashion")
        for kind, make in (("softmax", softmax_task), ("cnn", cnn_task))
    }
)
