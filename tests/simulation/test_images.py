"""Image data sets and larger models through the simulation, on a small data set in CIFAR-10's own file format."""

import pytest
import torch

from node.learning import datasets, image_shares
from node.learning.image_shares import image_share
from node.learning.task import Share
from node.simulation.run import simulate
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import one_thread
from tests.cifar import write_cifar10

pytestmark = pytest.mark.real


@pytest.fixture
def small(tmp_path, monkeypatch):
    return write_cifar10(tmp_path, monkeypatch)


def run(small, **options):
    with one_thread():  # on a busy machine, two threads wait for each other ten times longer
        return list(simulate(SimulationSettings(members=2, split="skewed:1", data_dir=small, batch_size=8, **options)))


def test_the_small_cnn_learns_cifar10(small):
    rounds = run(small, task="cifar10-cnn", rounds=5, local_epochs=3, learning_rate=0.02)
    assert rounds[-1].metrics[0]["accuracy"] > 0.3


@pytest.mark.parametrize("sharing", ["fixed", pytest.param("learned", marks=pytest.mark.slow)])
def test_the_resnet_trains_and_mixes(small, sharing):
    (finished,) = run(small, task="cifar10-resnet18", rounds=1, local_epochs=0.1, learning_rate=0.01, sharing=sharing)
    assert finished.payload_bytes > 44_000_000
    assert finished.flats.shape == (2, 11_173_962)
    assert bool(torch.isfinite(finished.flats).all())
    assert all(sum(row.values()) == 65535 for row in finished.rows)


def test_many_members_read_the_files_once_and_share_the_test_set(small, monkeypatch):
    read = []
    genuine = datasets.read_images

    def counted(name, folder):
        read.append(name)
        return genuine(name, folder)

    monkeypatch.setattr(image_shares, "read_images", counted)
    splits = [image_share("cifar10", Share(small, index, 10, "iid", 1)) for index in range(10)]
    assert read == ["cifar10"]
    assert all(split.test.inputs is splits[0].test.inputs for split in splits)
    assert sum(len(split.train) + len(split.validation) for split in splits) == 100
    held = image_share("cifar10", Share(small, 0, 10, "iid", 1, held_out=True))
    assert len(held.test) == 16
