"""A coordinator's shelf of splits, and a learner that takes its own from it, in memory and from a disk."""

import hashlib

import orjson
import pytest
import torch
import trio

from node.config import Shares
from node.daemon import served_data
from node.daemon.handing_out import hand_out, read_manifest
from node.daemon.served_data import OwnersRest, ServedData, taken_from
from node.errors import ConfigError, DataError, HomeError, PeerError, TaskError
from node.learning.served import no_examples
from node.learning.task import Examples, LocalSplit
from node.messages import Content
from tests.daemon.test_averaging import learner

SHARES = Shares(count=3, source="served")
CHANCE = torch.Generator().manual_seed(1)
WHOLE = Examples(torch.randn(60, 6, generator=CHANCE), torch.randn(60, 1, generator=CHANCE))


class Wire:
    """Gives files of a shelf; an attempt ends after so many bytes."""

    def __init__(self, shelf, pieces=None):
        self.shelf, self.pieces, self.sent, self.after_two = shelf, pieces, [], lambda: None

    async def fetch(self, wanted: Content, holder, seconds, path):
        await trio.lowlevel.checkpoint()
        content = self.shelf.open(wanted.digest).read_bytes()
        there = path.read_bytes() if path.is_file() else b""
        more = content[len(there) :][: self.pieces]
        self.sent.append(len(more))
        path.write_bytes(there + more)
        if len(self.sent) == 2:
            self.after_two()
        if len(there + more) < len(content):
            raise PeerError("cut off")


def taker(place, wire, directory, shares=SHARES, check=lambda data: None):
    made = learner(place)
    made.data = LocalSplit(no_examples(), no_examples(), no_examples())
    return ServedData(directory, shares, place, made, check, wire.fetch, lambda: "boss", lambda line: None)


def shelf_in(path, shares=SHARES):
    return hand_out(path, WHOLE, shares, seed=5)


async def test_learners_get_disjoint_splits_that_are_the_whole(tmp_path):
    shelf = shelf_in(tmp_path / "boss")
    rows = []
    for place in range(3):
        worker = taker(place, Wire(shelf), tmp_path / str(place))
        assert await worker.obtain(shelf.manifest())
        data = worker.learner.data
        assert (len(data.train), len(data.validation)) == (16, 4)
        rows += [tuple(row) for part in (data.train, data.validation) for row in part.inputs.tolist()]
    assert sorted(rows) == sorted(tuple(row) for row in WHOLE.inputs.tolist())


async def test_who_joins_beyond_the_splits_gets_one_too(tmp_path):
    shelf = shelf_in(tmp_path / "boss")
    late, first = (taker(place, Wire(shelf), tmp_path / str(place)) for place in (3, 0))
    for worker in (late, first):
        assert await worker.obtain(shelf.manifest())
    assert torch.equal(late.learner.data.train.inputs, first.learner.data.train.inputs)


async def test_what_was_cut_off_goes_on_at_the_next_byte_also_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(served_data, "PAUSE_S", 0.001)
    shelf = shelf_in(tmp_path / "boss")
    wire = Wire(shelf, pieces=100)
    with trio.CancelScope() as killed:
        wire.after_two = killed.cancel
        await taker(0, wire, tmp_path / "w").obtain(shelf.manifest())
    assert len(wire.sent) == 2
    again = taker(0, wire, tmp_path / "w")
    assert await again.obtain(shelf.manifest())
    split = read_manifest(shelf.open(shelf.manifest().digest).read_bytes()).splits[0]
    assert sum(wire.sent) == shelf.manifest().size + split.bytes, "no byte came twice"
    assert len(again.learner.data.train) == 16


async def test_what_is_on_the_disk_is_not_asked_for_again_unless_it_is_damaged(tmp_path):
    shelf, wire = shelf_in(tmp_path / "boss"), None
    for expected in (2, 0, 1):
        wire = Wire(shelf)
        assert await taker(1, wire, tmp_path / "w").obtain(shelf.manifest())
        assert len(wire.sent) == expected
        if not expected:
            largest = max((tmp_path / "w").iterdir(), key=lambda path: path.stat().st_size)
            largest.write_bytes(bytes(largest.stat().st_size))


async def test_after_a_restart_a_learner_finds_its_split_also_if_who_coordinates_names_none(tmp_path):
    shelf, wire = shelf_in(tmp_path / "boss"), None
    assert taken_from(tmp_path / "w") is None
    for said, expected in ((shelf.manifest(), 2), (None, 0)):
        wire = Wire(shelf)
        worker = taker(1, wire, tmp_path / "w")
        assert await worker.obtain(said)
        assert (len(worker.learner.data.train), len(wire.sent)) == (16, expected)
    assert taken_from(tmp_path / "w") == shelf.manifest(), "what it tells the others if it is elected"


async def test_a_learner_without_its_split_says_once_that_only_the_owner_has_it_and_takes_it_when_the_owner_is_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(served_data, "PAUSE_S", 0.001)
    shelf, told, asked = shelf_in(tmp_path / "boss"), [], []
    wire = Wire(shelf)

    async def fetch(wanted, holder, seconds, path):
        asked.append(holder)
        if len(asked) < 5:
            raise PeerError("boss is not connected")
        await wire.fetch(wanted, holder, seconds, path)

    worker = taker(0, wire, tmp_path / "w")
    worker.fetch, worker.tell = fetch, told.append
    with trio.fail_after(5):
        assert await worker.obtain(shelf.manifest())
    assert asked == ["boss"] * 6
    assert sum("only the session's own coordinator can give it" in line for line in told) == 1
    gone = taker(0, wire, tmp_path / "x")
    gone.owner, gone.tell = (lambda: None), told.append
    with trio.move_on_after(0.05):
        await gone.obtain(shelf.manifest())
    assert "has left the session" in told[-1]
    assert not await OwnersRest().obtain(shelf.manifest()), "the splits are the learners'"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"manifest": "zz", "bytes": 1}', b'{"manifest": 3, "bytes": 1}']
)
def test_a_damaged_note_of_where_a_split_came_from_is_none(tmp_path, content):
    (tmp_path / served_data.POINTER).write_bytes(content)
    assert taken_from(tmp_path) is None


def test_the_coordinator_cuts_once(tmp_path):
    first = shelf_in(tmp_path / "boss").manifest()
    other = Examples(WHOLE.inputs + 1, WHOLE.targets)
    assert hand_out(tmp_path / "boss", other, SHARES, seed=6).manifest() == first
    for path in (tmp_path / "boss").iterdir():
        if path.stat().st_size > 400 and path.name != "manifest.json":
            path.unlink()
    with pytest.raises(HomeError, match="missing or damaged"):
        shelf_in(tmp_path / "boss")


def test_a_split_above_the_sessions_limit_is_refused_before_anything_is_served(tmp_path):
    with pytest.raises(ConfigError, match="--split-bytes"):
        shelf_in(tmp_path, Shares(count=3, source="served", bytes=100))


async def test_a_learner_refuses_what_its_session_does_not_allow(tmp_path):
    shelf, told = shelf_in(tmp_path / "boss"), []
    for number, shares in enumerate((Shares(count=2, source="served"), Shares(count=3, source="served", bytes=100))):
        wire = Wire(shelf)
        worker = taker(0, wire, tmp_path / str(number), shares)
        worker.tell = told.append
        assert not await worker.obtain(shelf.manifest())
        assert not await worker.obtain(shelf.manifest())
        assert len(wire.sent) == 1, "the manifest only, and once"
    assert not await taker(0, Wire(shelf), tmp_path / "none").obtain(None)
    assert not await taker(0, Wire(shelf), tmp_path / "big").obtain(Content(bytes(32), 2**40))
    assert ["a manifest of 3 splits" in told[0], "the session allows 100" in told[1]] == [True, True]


async def test_data_that_the_model_cannot_take_are_refused(tmp_path):
    def check(data):
        raise TaskError("model and data do not fit")

    shelf = shelf_in(tmp_path / "boss")
    worker = taker(0, Wire(shelf), tmp_path / "w", check=check)
    assert not await worker.obtain(shelf.manifest())
    assert not len(worker.learner.data.train)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        orjson.dumps({"splits": []}),
        orjson.dumps({"splits": [{"sha256": "../" + "0" * 61, "bytes": 1, "examples": 1}]}),
        orjson.dumps({"splits": [{"sha256": "0" * 64, "bytes": 0, "examples": 1}]}),
    ],
)
def test_a_manifest_that_names_no_splits_is_refused(content):
    with pytest.raises(DataError, match="names no splits"):
        read_manifest(content)


def test_the_shelf_has_nothing_but_its_files(tmp_path):
    shelf = shelf_in(tmp_path)
    assert shelf.open(bytes(32)) is None
    assert shelf.open(b"") is None
    said = shelf.manifest()
    assert hashlib.sha256(shelf.open(said.digest).read_bytes()).digest() == said.digest
