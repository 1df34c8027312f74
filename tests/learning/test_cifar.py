import pickle

import numpy as np
import pytest

from node.errors import DataError
from node.learning.cifar import FOLDER
from node.learning.datasets import load_images
from tests.cifar import write_cifar10

pytestmark = pytest.mark.real  # torchvision takes a second to import


@pytest.fixture
def small(tmp_path, monkeypatch):
    return write_cifar10(tmp_path, monkeypatch)


def test_the_files_are_read_channel_by_channel(small):
    images = load_images("cifar10", small)
    assert images.train_images.shape == (100, 3, 32, 32)
    assert images.test_images.shape == (20, 3, 32, 32)
    batch = pickle.loads((small / FOLDER / "data_batch_2").read_bytes())
    assert np.array_equal(images.train_images[20:40].reshape(20, -1).numpy(), batch["data"])
    assert images.train_labels[20:40].tolist() == batch["labels"]
    normalised = images.normalised(images.train_images)
    assert float(normalised[0, 1, 5, 7]) == pytest.approx(
        (int(images.train_images[0, 1, 5, 7]) / 255 - 0.4822) / 0.2435, abs=1e-5
    )


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_genuine_one_is_named_and_never_unpickled(small, name):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (small / FOLDER / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=f"{name} is not the genuine file"):
        load_images("cifar10", small)


def test_a_file_that_is_missing_is_named(small):
    (small / FOLDER / "data_batch_5").unlink()
    with pytest.raises(DataError, match="data_batch_5 can't be read"):
        load_images("cifar10", small)


def test_a_data_set_that_is_nowhere_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"'cifar10' is in none of .*cifar-10-python\.tar\.gz"):
        load_images("cifar10", tmp_path)
