"""Retention, and what an operator asks: which snapshots stay, which are whole, what is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ContentMissing, StorageError
from node.storage import Label, Pin, Retention, describe, expired, export, open_snapshots, retain, take_inventory
from node.storage.cid import DAG_PB, RAW, cid_of_block, directory_cid, format_cid
from node.storage.dagpb import Link, encode_directory, encode_node

FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 1200}


def pin(round, member=0, session=1):
    cid = directory_cid(bytes([session, member]) + round.to_bytes(4, "big") + bytes(26))
    return Pin(cid, Label(session, member, round), 100, 1000.0 + round)


@pytest.fixture
async def store(tmp_path):
    async with open_snapshots(tmp_path / "alice") as snapshots:
        yield snapshots


def rounds(pins):
    return [pin.label.round for pin in pins]


def test_the_newest_rounds_of_each_member_stay():
    pins = [pin(round, member) for round in (5, 10, 15) for member in (0, 1)] + [pin(5, 2), pin(1, 0, session=2)]
    released = expired(pins, Retention(last=2, named=False))
    assert [(pin.label.member, pin.label.round) for pin in released] == [(0, 5), (1, 5)]


def test_two_snapshots_of_one_round_count_as_one():
    again = Pin(directory_cid(b"\xff" * 32), Label(1, 0, 3), 100, 1003.5)  # killed before it kept the first one's mix
    pins = [*(pin(round) for round in (1, 2, 3)), again]
    assert rounds(expired(pins, Retention(last=2))) == [1]


def test_every_kth_round_stays():
    pins = [pin(round) for round in range(0, 30, 5)]
    assert rounds(expired(pins, Retention(last=1, every=10))) == [5, 15]


def test_what_the_ledger_names_stays_unless_the_policy_says_otherwise():
    pins = [pin(round) for round in range(4)]
    assert rounds(expired(pins, Retention(last=1), {pins[1].cid})) == [0, 2]
    assert rounds(expired(pins, Retention(last=1, named=False), {pins[1].cid})) == [0, 1, 2]


def test_what_was_pinned_by_hand_stays():
    by_hand = Pin(directory_cid(bytes(32)), None, 1, 0.0)
    assert expired([by_hand, pin(1), pin(2)], Retention(last=1)) == [pin(1)]


@pytest.mark.parametrize(("last", "every"), [(0, 1), (-1, 0), (1, -1)])
def test_a_policy_that_keeps_nothing_is_refused(last, every):
    with pytest.raises(StorageError, match="keep at least 1"):
        Retention(last, every)


@given(st.sets(st.integers(0, 200), max_size=40), st.integers(1, 5), st.integers(0, 7))
def test_applying_a_policy_twice_releases_nothing_more(kept, last, every):
    pins = [pin(round) for round in sorted(kept)]
    policy = Retention(last, every)
    gone = expired(pins, policy)
    left = [pin for pin in pins if pin not in gone]
    assert expired(left, policy) == []
    assert len(left) >= min(last, len(pins))


async def test_a_policy_releases_and_collects(store):
    cids = [await store.add({"update": bytes([round]) * 100}, Label(1, 0, round)) for round in range(4)]
    retained = await retain(store, Retention(last=1), named={cids[0]})
    assert retained.released == (cids[1], cids[2])
    assert retained.collected.blocks == 4
    assert [pin.cid for pin in await store.pins()] == [cids[0], cids[3]]
    assert (await retain(store, Retention(last=1), named={cids[0]})).released == ()


async def test_a_shared_daemon_is_not_collected(store):
    for round in range(2):
        await store.add({"update": bytes([round]) * 100}, Label(1, 0, round))
    assert (await retain(store, Retention(last=1), collect=False)).collected.blocks == 0


async def test_the_inventory_tells_the_damaged_from_the_whole(store):
    whole = await store.add({"update": b"whole"}, Label(1, 0, 1))
    broken = await store.add({"update": b"broken"}, Label(1, 0, 2))
    next(path for _, path in store.blocks.files() if path.read_bytes() == b"broken").unlink()
    found = await take_inventory(store, named={broken})
    assert [(held.pin.cid, held.whole, held.named) for held in found.held] == [
        (whole, True, False),
        (broken, False, True),
    ]
    assert found.size == await store.size()


async def test_a_snapshot_is_described_and_exported(store, tmp_path):
    cid = await store.add(FILES, Label(1, 2, 3))
    description = await describe(store, cid)
    assert description.pin.label == Label(1, 2, 3)
    assert [entry.name for entry in description.entries] == ["mixed.safetensors", "update"]
    paths = await export(store, cid, tmp_path / "out" / "here", 1 << 20)
    assert {path.name: path.read_bytes() for path in paths} == FILES


async def test_an_export_overwrites_nothing(store, tmp_path):
    cid = await store.add(FILES)
    (tmp_path / "update").write_bytes(b"precious")
    with pytest.raises(StorageError, match="is there already: name another directory"):
        await export(store, cid, tmp_path, 1 << 20)
    assert (tmp_path / "update").read_bytes() == b"precious"


async def test_the_files_of_an_export_are_no_larger_together_than_allowed(store, tmp_path):
    cid = await store.add({f"file-{number}": bytes(100) for number in range(10)})  # one block, ten files
    with pytest.raises(StorageError, match=r"has 1,000 bytes, at most 999 are allowed"):
        await export(store, cid, tmp_path / "out", 999)
    assert not (tmp_path / "out").exists()
    assert len(await export(store, cid, tmp_path / "out", 1000)) == 10


async def test_a_foreign_directory_cannot_write_outside_of_where_it_is_exported(store, tmp_path):
    leaf = cid_of_block(RAW, b"x")
    block = encode_node([Link(leaf, "../escaped", 1)], encode_directory())
    root = cid_of_block(DAG_PB, block)
    with store.blocks.writing() as put:
        put(leaf, b"x")
        put(root, block)
    with pytest.raises(StorageError, match="no snapshot"):
        await export(store, format_cid(root), tmp_path / "out", 100)


async def test_what_nobody_has_cannot_be_described(store):
    with pytest.raises(ContentMissing):
        await describe(store, directory_cid(bytes(32)))
