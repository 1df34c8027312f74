"""Large models lie on disk, and everything comes to the same bits as in memory."""

import hashlib

import pytest
import torch

from node.config import Aggregation
from node.daemon.averaging import AveragingLearner, WorkingLearner
from node.daemon.journal import Journal
from node.daemon.ports import DiskJournal
from node.daemon.spool import Spool, load_tensors, open_spool, tensor_pieces
from node.errors import UpdateError
from node.learning import aggregation, vectors
from node.learning.codecs import codec
from node.messages import Mix
from node.session.ports import Trained
from tests.daemon.test_averaging import learner, rounds

RULES = ["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "krum", "multi_krum"]
RULES += ["geometric_median", "clipping"]


def spooled(member, directory, form="float32"):
    made = learner(member)
    made.spool, made.codec = Spool(open_spool(directory), above=0), codec(form)
    return made


def in_memory(member, form):
    made = learner(member)
    made.codec = codec(form)
    return made


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8+zstd"])
@pytest.mark.parametrize("name", RULES)
async def test_rounds_from_disk_are_those_in_memory(name, form, tmp_path, monkeypatch):
    for module in (aggregation, vectors):
        monkeypatch.setattr(module, "CHUNK", 7)  # several parts of so small a model
    rule = Aggregation(rule=name, faulty=1)
    boss = AveragingLearner(in_memory(0, form), rule, rounds=2)
    plain = await rounds(boss, [WorkingLearner(in_memory(member, form)) for member in (1, 2, 3, 4)], 2)
    other = AveragingLearner(spooled(0, tmp_path / "0", form), rule, rounds=2)
    workers = [WorkingLearner(spooled(member, tmp_path / str(member), form)) for member in (1, 2, 3, 4)]
    said = await rounds(other, workers, 2)
    assert [(one.digest, one.inputs) for one in said] == [(one.digest, one.inputs) for one in plain]
    for one in said:
        assert hashlib.sha256(one.payload.read_bytes()).digest() == one.digest
    assert [{name: path.read_bytes() for name, path in one.files.items()} for one in said] == [
        one.files for one in plain
    ]
    assert not [left for member in (1, 2, 3, 4) for left in (tmp_path / str(member)).iterdir()], "updates are gone"


async def test_a_restart_from_a_file_goes_on_with_the_same_numbers(tmp_path):
    boss = AveragingLearner(spooled(0, tmp_path / "spool"), Aggregation(rule="fedadam"))
    await rounds(boss, [WorkingLearner(learner(1))], 2)
    journal = Journal(tmp_path / "state", keep=3)
    await DiskJournal(journal, boss).mixed(Mix(2, 2, (), bytes(32), None))
    again = AveragingLearner(spooled(0, tmp_path / "spool"), Aggregation(rule="fedadam"))
    assert (await DiskJournal(journal, again).load()).next_round == 3
    assert torch.equal(again.torch_learner.flat, boss.torch_learner.flat)
    worker = WorkingLearner(learner(1))
    await rounds(again, [worker], 1)
    assert journal.checkpoint() is not None, "changing what was restored changes no file"


async def test_the_journal_takes_a_spooled_payload_over(tmp_path):
    spool = Spool(open_spool(tmp_path / "spool"), above=0)
    payload, digest = spool.keep([b"up", b"date"], 6)
    journal = Journal(tmp_path / "state", keep=3)
    kept = await DiskJournal(journal, learner(0)).trained(1, Trained(payload, digest))
    assert not payload.exists()
    assert (kept.payload.read_bytes(), kept.size) == (b"update", 6)
    assert journal.update(1) == (b"update", hashlib.sha256(b"update").digest())


def test_what_a_killed_node_left_goes_at_the_next_start(tmp_path):
    Spool(open_spool(tmp_path), above=0).keep([b"x"], 1)
    (tmp_path / "mine").write_bytes(b"")
    assert [path.name for path in open_spool(tmp_path).iterdir()] == ["mine"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_hostile_file_is_refused_and_changes_nothing(number, tmp_path):
    worker = WorkingLearner(spooled(1, tmp_path))
    before, bad = worker.torch_learner.flat.clone(), worker.torch_learner.flat.clone()
    bad[-1] = number
    payload = worker.torch_learner.exact(bad, {}).payload
    assert "must be finite" in await worker.torch_learner.accepts(payload)
    with pytest.raises(UpdateError, match="must be finite"):
        await worker.adopt(payload, False)
    assert torch.equal(worker.torch_learner.flat, before)
    payload.write_bytes(payload.read_bytes()[:-1])
    assert "bytes long" in await worker.torch_learner.accepts(payload)
    payload.write_bytes(b"{}")
    assert "header" in await worker.torch_learner.accepts(payload)


def test_pieces_are_a_safetensors_file():
    tensors = {
        "a": torch.arange(3.0),
        "b": torch.tensor([1, 2]),
        "none": torch.empty(0),
        "c": torch.ones(1, dtype=torch.uint8),
    }
    loaded = load_tensors(b"".join(tensor_pieces(tensors)))
    assert {name: each.tolist() for name, each in loaded.items()} == {
        name: each.tolist() for name, each in tensors.items()
    }
