"""The built-in tasks: softmax regression, a small CNN and a ResNet-18 on MNIST, Fashion-MNIST and CIFAR-10."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from node.learning.augmentation import crop_and_flip
from node.learning.image_shares import image_share
from node.learning.models import resnet18, small_cnn, softmax_regression
from node.learning.schedules import cosine
from node.learning.task import Task

CLASSES = 10
SHAPES: Mapping[str, tuple[int, int]] = MappingProxyType(  # channels, side
    {"mnist": (1, 28), "fashion": (1, 28), "cifar10": (3, 32)}
)


def softmax_task(dataset: str) -> Task:
    """Softmax regression (7,850 numbers; on CIFAR-10 30,730)."""
    channels, side = SHAPES[dataset]
    return Task(
        name=f"{dataset}-softmax",
        model=partial(softmax_regression, channels * side * side, CLASSES),
        data=partial(image_share, dataset),
        classes=CLASSES,
        learning_rate=0.1 if channels == 1 else 0.02,
        schedule=cosine,
        batch_size=64,
    )


def cnn_task(dataset: str) -> Task:
    """A small CNN with GroupNorm (22,000 numbers; on CIFAR-10 26,000)."""
    channels, side = SHAPES[dataset]
    return Task(
        name=f"{dataset}-cnn",
        model=partial(small_cnn, channels, side, CLASSES),
        data=partial(image_share, dataset),
        classes=CLASSES,
        learning_rate=0.05,
        momentum=0.9,
        batch_size=64,
    )


def resnet18_task(dataset: str) -> Task:
    """A ResNet-18 with GroupNorm (11 million numbers): hours without a GPU. CIFAR-10's images are augmented."""
    return Task(
        name=f"{dataset}-resnet18",
        model=partial(resnet18, SHAPES[dataset][0], CLASSES),
        data=partial(image_share, dataset),
        classes=CLASSES,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=64,
        augment=crop_and_flip if dataset == "cifar10" else None,
    )


BUILTIN_TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {
        f"{dataset}-{kind}": partial(make, dataset)
        for dataset in SHAPES
        for kind, make in (("softmax", softmax_task), ("cnn", cnn_task), ("resnet18", resnet18_task))
    }
)
