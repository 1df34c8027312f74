from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from node.config import Coordination, Shares
from node.daemon.averaging import WorkingLearner
from node.daemon.directory import Seat
from node.daemon.handing_out import hand_out, read_manifest
from node.daemon.known_work import known_work, whole_round
from node.learning.served import read_split
from node.messages import Content
from node.session.bounds import Most
from tests.daemon.test_averaging import learner
from tests.learning.example_task import task

BOSS = "0x" + "bb" * 20
COORDINATION = Coordination(coordinator=BOSS, accumulate=4)


def prepared(a_task=task, update="parameters", accounts=(BOSS, "0x" + "11" * 20, "0x" + "22" * 20)):
    """As far as it matters here."""
    session = SimpleNamespace(update=update, privacy=None)
    seats = tuple(Seat(f"peer{i}", account, True, ()) for i, account in enumerate(accounts))
    return SimpleNamespace(
        opened=SimpleNamespace(session=session),
        learner=SimpleNamespace(learner=SimpleNamespace(task=a_task)),
        directory=SimpleNamespace(seats=seats),
    )


@pytest.fixture
def shelf(tmp_path):
    whole = learner(0).data.train.rows(torch.arange(100))
    return hand_out(tmp_path / "served", whole, Shares(source="served", split="unbalanced", count=2), seed=3)


async def test_nobody_counts_for_more_than_the_split_of_its_place(shelf):
    known = known_work(prepared(), COORDINATION, shelf.directory, shelf.manifest())
    splits = read_manifest((shelf.directory / "manifest.json").read_bytes()).splits
    assert splits[0].examples != splits[1].examples
    for member, split in ((1, splits[0]), (2, splits[1])):
        worker = WorkingLearner(learner(member, task))
        worker.torch_learner.data = read_split(shelf.directory / split.sha256)
        model = worker.torch_learner.exact(worker.torch_learner.flat, {})
        await worker.adopt(model.payload, False)
        work = (await worker.train(1, 0, lambda: False)).work
        assert known(member) == Most(work.full, work.examples), "exactly what an honest one says"


def test_with_a_fixed_number_of_steps_or_batches_these_are_known(tmp_path):
    fixed = replace(task, local_steps=7)
    assert known_work(prepared(fixed), COORDINATION, tmp_path, None)(1) == Most(7)
    assert known_work(prepared(update="gradients"), COORDINATION, tmp_path, None)(1) == Most(4)


def test_data_that_the_coordinator_has_not_seen_are_not_known(tmp_path):
    by_epochs = replace(task, local_steps=None)
    assert known_work(prepared(by_epochs), COORDINATION, tmp_path, None)(1) is None
    assert known_work(prepared(by_epochs), COORDINATION, tmp_path, Content(b"m" * 32, 9))(1) is None


def test_a_private_round_has_the_steps_of_its_own_batches():
    by_epochs = replace(task, local_steps=None, local_epochs=1, batch_size=20)
    privacy = SimpleNamespace(sample_rate=0.5)
    assert whole_round(by_epochs, None, 100) == Most(4, 80)
    assert whole_round(by_epochs, privacy, 100) == Most(2, 80)
