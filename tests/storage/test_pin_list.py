"""The list of pins after a fault of the disk: what it does not know for certain is not removed as garbage."""

import sqlite3
from contextlib import closing

import pytest

from node.errors import StorageError
from node.storage import Label, open_snapshots
from node.storage.cid import parse_cid

FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 1200}
BEFORE = """create table pins (
    cid blob primary key, session text, member integer, round integer, size integer not null, at real not null,
    digests blob not null) without rowid"""  # what an earlier version made


def files_of(store):
    return {path for _, path in store.blocks.files()}


async def kept_in(home):
    async with open_snapshots(home) as store:
        return await store.add(FILES, Label(7, 0, 3)), files_of(store)


def flip(path, pattern, at=0):
    content = bytearray(path.read_bytes())
    content[content.index(pattern) + at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 40])
async def test_a_flipped_bit_in_a_pin_s_digests_removes_nothing_and_pinning_mends_it(tmp_path, place):
    cid, blocks = await kept_in(tmp_path)
    async with open_snapshots(tmp_path) as store:
        digests = b"".join(store._catalogue.digests_of(cid))
        flip(tmp_path / "ipfs" / "pins.sqlite", digests, place)
        for force in (False, True):
            with pytest.raises(StorageError, match=rf"pins\.sqlite is damaged in the row of {cid}.*snapshot pin {cid}"):
                await store.gc(force)
        with pytest.raises(StorageError, match="damaged in the row"):
            await store.block_cids(cid)
        assert files_of(store) == blocks
        assert [pin.cid for pin in await store.damaged()] == [cid]
        await store.pin(cid)
        assert await store.damaged() == []
        assert (await store.gc()).blocks == 0
        assert files_of(store) == blocks
        assert [pin.label for pin in await store.pins()] == [Label(7, 0, 3)]


async def test_a_flipped_bit_in_a_pin_s_cid_removes_nothing_until_the_row_is_dropped(tmp_path):
    cid, blocks = await kept_in(tmp_path)
    flip(tmp_path / "ipfs" / "pins.sqlite", parse_cid(cid), 20)
    async with open_snapshots(tmp_path) as store:
        with pytest.raises(StorageError, match="damaged in the row"):
            await store.gc()
        [wrong] = await store.damaged()
        await store.pin(cid)
        await store.unpin(wrong.cid)
        assert (await store.gc()).blocks == 0
        assert files_of(store) == blocks


async def test_a_list_of_an_earlier_version_gets_its_sums_where_it_lies(tmp_path):
    cid, blocks = await kept_in(tmp_path)
    path = tmp_path / "ipfs" / "pins.sqlite"
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("select cid, session, member, round, size, at, digests from pins").fetchall()
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(BEFORE)
        database.executemany("insert into pins values (?, ?, ?, ?, ?, ?, ?)", rows)
    for _ in range(2):
        async with open_snapshots(tmp_path) as store:
            assert await store.damaged() == []
            assert [(pin.cid, pin.label) for pin in await store.pins()] == [(cid, Label(7, 0, 3))]
            assert (await store.gc()).blocks == 0
            assert files_of(store) == blocks
            again = await store.add({"update": b"more"})
            await store.unpin(again)
            assert (await store.gc()).blocks == 2
    flip(path, rows[0][-1])
    async with open_snapshots(tmp_path) as store:
        with pytest.raises(StorageError, match="damaged in the row"):
            await store.gc()


@pytest.mark.parametrize("leave", [None, b""])
async def test_a_list_that_was_lost_removes_no_block_until_the_operator_says_so(tmp_path, leave):
    cid, blocks = await kept_in(tmp_path)
    path = tmp_path / "ipfs" / "pins.sqlite"
    path.unlink()
    if leave is not None:
        path.write_bytes(leave)
    async with open_snapshots(tmp_path) as store:
        with pytest.raises(StorageError, match=r"pins\.sqlite is newer than the blocks .*snapshot pin.*gc --force"):
            await store.gc()
    async with open_snapshots(tmp_path) as store:
        other = await store.add({"update": b"another round"})
        with pytest.raises(StorageError, match="nothing is removed"):
            await store.gc()
        assert files_of(store) > blocks
        await store.unpin(other)
        await store.pin(cid, Label(7, 0, 3))
        assert (await store.gc(force=True)).blocks == 2
        assert files_of(store) == blocks
        assert (await store.gc()).blocks == 0


async def test_a_new_store_collects_without_force(tmp_path):
    (tmp_path / "ipfs" / "blocks" / "AA").mkdir(parents=True)
    (tmp_path / "ipfs" / "blocks" / "AA" / "CIQ.data.1.ab.tmp").write_bytes(b"left by a kill")
    async with open_snapshots(tmp_path) as store:
        assert (await store.gc()).bytes == 14
        await store.unpin(await store.add(FILES))
        assert (await store.gc()).blocks > 2
