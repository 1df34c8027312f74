"""A small data set in CIFAR-10's own file format, known to torchvision's loader by its own checksums."""

import hashlib
import pickle

import numpy as np

from node.learning.cifar import FOLDER
from node.learning.torchvision_shim import import_torchvision

PER_BATCH = 20
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


def write_cifar10(folder, monkeypatch, seed=0):
    """The files, which torchvision's loader takes for the genuine ones until the test is over."""
    sums = write_files(folder, seed)
    loader = import_torchvision().datasets.CIFAR10
    for name, value in lists_of(sums).items():
        monkeypatch.setattr(loader, name, value)
    return folder


def take_for_genuine(sums):
    """In a process of its own: torchvision's loader takes the files with these checksums for the genuine ones."""
    loader = import_torchvision().datasets.CIFAR10
    for name, value in lists_of(sums).items():
        setattr(loader, name, value)


def lists_of(sums):
    """What torchvision's loader knows the files by."""
    meta = {**import_torchvision().datasets.CIFAR10.meta, "md5": sums["batches.meta"]}
    return {
        "train_list": [[name, sums[name]] for name in BATCHES],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": meta,
    }


def write_files(folder, seed=0):
    """Five batches of 20 images to train on, and 20 to test with: each class has a colour of its own, and noise.

    The files' checksums by name.
    """
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (10, 3, 1))
    place = folder / FOLDER
    place.mkdir(parents=True)
    sums = {}

    def write(name, content):
        packed = pickle.dumps(content, protocol=2)
        (place / name).write_bytes(packed)
        sums[name] = hashlib.md5(packed).hexdigest()

    for name in (*BATCHES, "test_batch"):
        labels = generator.permutation(np.arange(PER_BATCH) % 10)
        images = colours[labels] + generator.integers(-40, 40, (PER_BATCH, 3, 1024))
        data = np.clip(images, 0, 255).astype(np.uint8).reshape(PER_BATCH, 3072)
        write(name, {"batch_label": name, "labels": labels.tolist(), "data": data, "filenames": [name] * PER_BATCH})
    write("batches.meta", {"num_cases_per_batch": PER_BATCH, "label_names": list("abcdefghij"), "num_vis": 3072})
    return sums
