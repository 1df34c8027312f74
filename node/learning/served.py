"""A data set cut into disjoint splits that travel as safetensors files, and read back with suspicion (protocol.md, 9).

Knows no peers. A file that is anything but examples is a DataError.
"""

import json
import os
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from node.errors import ConfigError, DataError
from node.learning.splits import Indices, partition, require_split, train_validation
from node.learning.task import Examples, LocalSplit

NAMES = ("inputs", "targets")
HEADER_LIMIT = 4096
FEWEST = 2  # examples: one to train on, one to validate with
KINDS = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)


def cut(whole: Examples, split: str, shares: int, seed: int) -> list[Indices]:
    """Disjoint rows of each share; together they are everything. ConfigError for what these data can't be split by."""
    by_class = require_split(split)[0] not in ("iid", "unbalanced")
    if by_class and (whole.targets.dim() != 1 or whole.targets.is_floating_point()):
        raise ConfigError(
            f"split {split!r} goes by classes, and targets of shape {tuple(whole.targets.shape)} "
            f"({whole.targets.dtype}) are none: choose --split iid or unbalanced"
        )
    if len(whole) < FEWEST * shares:
        raise ConfigError(f"{len(whole)} examples make no {shares} splits of at least {FEWEST}: choose fewer --members")
    labels = whole.targets.numpy().astype(np.int64) if by_class else np.zeros(len(whole), dtype=np.int64)
    return partition(labels, split, shares, seed)


def tensors_of(examples: Examples) -> dict[str, Tensor]:
    """What a split's file holds."""
    return dict(zip(NAMES, (examples.inputs, examples.targets), strict=True))


def read_split(path: Path) -> LocalSplit:
    """A learner's data from a split's file, of which it keeps a fifth for validation; no test set.

    Raises DataError unless the file holds two tensors of as many rows, of finite numbers.
    """
    try:
        _check_header(path)
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"split {path.name[:16]}… is no safetensors file of examples ({error})") from error
    inputs, targets = (tensors[name] for name in NAMES)
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets) or len(inputs) < FEWEST:
        shapes = f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}"
        raise DataError(f"split {path.name[:16]}… has {shapes}: as many rows of both, at least {FEWEST}, are needed")
    for name, tensor in tensors.items():
        if tensor.dtype not in KINDS or (tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())):
            raise DataError(f"split {path.name[:16]}… has {name} that are no finite numbers ({tensor.dtype})")
    train, validation = (torch.from_numpy(rows) for rows in train_validation(np.arange(len(inputs))))
    whole = Examples(inputs, targets)
    return LocalSplit(whole.rows(train), whole.rows(validation), no_examples())


def _check_header(path: Path) -> None:
    """ValueError unless the header is small and names the two tensors; nothing else of it is believed here."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER_LIMIT, os.fstat(file.fileno()).st_size - 8):
            raise ValueError(f"it claims {length} bytes of header")
        entries = json.loads(file.read(length))
    if not isinstance(entries, dict) or sorted(entries) != sorted(NAMES):
        raise ValueError(f"it has to hold {' and '.join(NAMES)}, and nothing else")


def no_examples() -> Examples:
    """None at all."""
    return Examples(torch.empty(0), torch.empty(0))
