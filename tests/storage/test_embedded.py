"""The embedded store: what is added is there, whatever happens, and nothing else is believed."""

import logging

import pytest
import trio

from node.errors import ContentMissing, StorageError
from node.storage import Bounds, Label, open_snapshots
from node.storage.cid import RAW, cid_of_block, format_cid, parse_cid

LARGE = bytes(range(256)) * 1200  # 300 KiB: two chunks
FILES = {"update": b"payload", "mixed.safetensors": LARGE}
CID = "bafybeif7hpdcdvrplrvuymqowt3tsxyxhyqthmpydcvhtxvmd5zlgpwcei"


def peers_with(store, asked=None):
    """A way to ask peers that have what is in this store."""

    async def fetch(cids):
        if asked is not None:
            asked.extend(cids)
        return {cid: block for cid in cids if (block := store.blocks.get(cid)) is not None}

    return fetch


def block_file(store, cid):
    return store.blocks._path(parse_cid(cid) if isinstance(cid, str) else cid)


@pytest.fixture
async def store(tmp_path):
    async with open_snapshots(tmp_path / "alice") as snapshots:
        yield snapshots


@pytest.fixture
async def remote(tmp_path):
    async with open_snapshots(tmp_path / "bob") as snapshots:
        yield snapshots


async def test_an_added_directory_is_read_back_and_listed(store):
    cid = await store.add(FILES)
    assert await store.read(cid, "update", 100) == b"payload"
    assert await store.read(cid, "mixed.safetensors", 1 << 20) == LARGE
    assert [(entry.name, entry.size) for entry in await store.entries(cid)] == [
        ("mixed.safetensors", len(LARGE)),
        ("update", 7),
    ]


async def test_an_added_directory_is_pinned_with_its_label(store):
    label = Label(session=2**64 - 1, member=3, round=7)
    cid = await store.add(FILES, label)
    (pin,) = await store.pins()
    assert (pin.cid, pin.label) == (cid, label)
    assert len(LARGE) < pin.size < len(LARGE) + 1000


async def test_adding_again_gives_the_same_cid_and_keeps_the_label(store):
    cid = await store.add(FILES, Label(1, 2, 3))
    assert await store.add(dict(reversed(FILES.items()))) == cid
    (pin,) = await store.pins()
    assert pin.label == Label(1, 2, 3)


async def test_a_file_on_disk_is_added_by_its_path(store, tmp_path):
    (tmp_path / "x").write_bytes(LARGE)
    assert await store.add({"update": b"payload", "mixed.safetensors": tmp_path / "x"}) == await store.add(FILES)


async def test_a_fetched_file_appears_only_when_it_is_complete(store, tmp_path):
    cid = await store.add(FILES)
    assert await store.fetch_to(cid, "mixed.safetensors", tmp_path / "out", 1 << 20) == len(LARGE)
    assert (tmp_path / "out").read_bytes() == LARGE
    block_file(store, cid_of_block(RAW, LARGE[262144:])).unlink()
    with pytest.raises(ContentMissing):
        await store.fetch_to(cid, "mixed.safetensors", tmp_path / "other", 1 << 20)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("other")]


async def test_the_limit_is_the_largest_file_that_is_read(store):
    cid = await store.add(FILES)
    assert len(await store.read(cid, "mixed.safetensors", len(LARGE))) == len(LARGE)
    with pytest.raises(StorageError, match="raise the limit"):
        await store.read(cid, "mixed.safetensors", len(LARGE) - 1)


async def test_a_name_that_is_not_in_the_snapshot_is_answered_with_those_that_are(store):
    cid = await store.add(FILES)
    with pytest.raises(StorageError, match=r"0 files named 'mixed'.*mixed\.safetensors, update"):
        await store.read(cid, "mixed", 100)


@pytest.mark.parametrize("name", ["", "../update", "a/b", ".hidden", "x" * 129, "a\x00", "ü"])
async def test_a_name_that_could_leave_the_directory_is_refused(store, name):
    with pytest.raises(StorageError, match="file name"):
        await store.add({name: b""})


async def test_a_link_is_not_added_as_a_file(store, tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(StorageError, match="not a regular file"):
        await store.add({"update": tmp_path / "link"})


async def test_an_unpinned_snapshot_is_collected_and_a_pinned_one_is_not(store):
    kept = await store.add({"update": b"kept", "both": LARGE})
    gone = await store.add({"update": b"gone", "both": LARGE})
    await store.unpin(gone)
    collected = await store.gc()
    assert collected.blocks == 2  # the directory and one file; the rest is shared
    assert await store.read(kept, "both", 1 << 20) == LARGE
    with pytest.raises(ContentMissing):
        await store.read(gone, "update", 100)


async def test_releasing_what_is_not_pinned_is_an_error(store):
    with pytest.raises(StorageError, match="not pinned here"):
        await store.unpin(CID)


async def test_a_collection_keeps_the_blocks_below_a_damaged_one(store, remote):
    cid = await store.add(FILES)
    block_file(store, cid).write_bytes(b"torn")
    assert (await store.gc()).blocks == 0
    assert len(list(store.blocks.files())) == 5


async def test_a_damaged_block_reads_as_missing_and_is_reported_once(store, caplog):
    cid = await store.add(FILES)
    block_file(store, cid_of_block(RAW, b"payload")).write_bytes(b"payloae")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(ContentMissing, match="missing or damaged"):
                await store.read(cid, "update", 100)
    assert caplog.text.count("damaged on disk") == 1


async def test_a_store_of_any_size_is_verified_if_each_snapshot_is_read_in_time(tmp_path, mock_clock, monkeypatch):
    async with open_snapshots(tmp_path, bounds=Bounds(seconds=10)) as store:
        cids = [await store.add({"update": b"%d" % number}) for number in range(4)]
        block_file(store, cids[2]).unlink()
        get = store.blocks.get

        def read_slowly(cid):
            trio.from_thread.run_sync(mock_clock.jump, 4.0)
            return get(cid)

        monkeypatch.setattr(store.blocks, "get", read_slowly)
        assert [pin.cid for pin in await store.damaged()] == [cids[2]]
        monkeypatch.setattr(store.blocks, "get", lambda cid: read_slowly(cid) and read_slowly(cid) and read_slowly(cid))
        with pytest.raises(StorageError, match=f"verifying {cids[0]} took over 10 s"):
            await store.damaged()


async def test_adding_again_mends_a_damaged_block(store):
    cid = await store.add(FILES)
    block_file(store, cid).write_bytes(b"")
    await store.add(FILES)
    assert await store.read(cid, "update", 100) == b"payload"


async def test_pinning_fetches_what_is_missing_from_peers(tmp_path, remote):
    cid = await remote.add(FILES)
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote)) as carol:
        await carol.pin(cid, Label(1, 0, 5))
        await carol.gc()
        assert [pin.label for pin in await carol.pins()] == [Label(1, 0, 5)]
    async with open_snapshots(tmp_path / "carol") as alone:
        assert await alone.read(cid, "mixed.safetensors", 1 << 20) == LARGE


async def test_pinning_again_mends_damaged_blocks_from_peers(tmp_path, remote):
    cid = await remote.add(FILES)
    asked = []
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote, asked)) as carol:
        await carol.add(FILES)
        damaged = cid_of_block(RAW, LARGE[:262144])
        block_file(carol, damaged).write_bytes(b"\0" * 262144)
        await carol.pin(cid)
        assert asked == [damaged]
        assert carol.blocks.get(damaged) == LARGE[:262144]


async def test_reading_one_file_fetches_only_its_blocks(tmp_path, remote):
    cid = await remote.add(FILES)
    asked = []
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote, asked)) as carol:
        assert await carol.read(cid, "update", 100) == b"payload"
    assert asked == [parse_cid(cid), cid_of_block(RAW, b"payload")]


async def test_listing_a_foreign_snapshot_fetches_the_top_of_each_file(tmp_path, remote):
    cid = await remote.add(FILES)
    asked = []
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote, asked)) as carol:
        assert [entry.size for entry in await carol.entries(cid)] == [len(LARGE), 7]
    assert len(asked) == 3


async def test_a_block_that_no_peer_has_leaves_no_pin(tmp_path, remote):
    cid = await remote.add(FILES)
    block_file(remote, cid_of_block(RAW, LARGE[262144:])).unlink()
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote)) as carol:
        with pytest.raises(ContentMissing, match="with no peer"):
            await carol.pin(cid)
        assert await carol.pins() == []


async def test_a_block_that_a_peer_forged_is_refused(tmp_path):
    async def forge(cids):
        return dict.fromkeys(cids, b"forged")

    async with open_snapshots(tmp_path / "carol", fetch=forge) as carol:
        with pytest.raises(StorageError, match="wrong bytes"):
            await carol.pin(CID)
        assert await carol.size() == 0


async def test_a_peer_that_never_answers_costs_no_more_than_the_deadline(tmp_path, autojump_clock):
    async def silence(cids):
        await trio.sleep_forever()

    async with open_snapshots(tmp_path / "carol", fetch=silence, bounds=Bounds(seconds=60)) as carol:
        with pytest.raises(StorageError, match="took over 60 s"):
            await carol.pin(CID)


async def test_a_snapshot_larger_than_the_bound_is_not_pinned(tmp_path, remote):
    cid = await remote.add(FILES)
    async with open_snapshots(tmp_path / "carol", fetch=peers_with(remote), bounds=Bounds(snapshot=1000)) as carol:
        with pytest.raises(StorageError, match="raise the limit"):
            await carol.pin(cid)


async def test_the_disk_limit_collects_garbage_first_and_then_refuses(tmp_path):
    async with open_snapshots(tmp_path / "alice", bounds=Bounds(disk=700_000)) as alice:
        await alice.unpin(await alice.add({"a": LARGE}))
        await alice.add({"b": LARGE + b"b"})
        await alice.add({"c": LARGE[::-1]})
        with pytest.raises(StorageError, match="raise the disk limit"):
            await alice.add({"d": LARGE[1:] + b"c"})


async def test_adds_and_collections_at_once_lose_nothing(store):
    cids = []

    async def add(number):
        cid = await store.add({"update": str(number).encode() * 40_000, "common": LARGE})
        cids.append(cid)
        if number % 3 == 0:
            await store.unpin(cid)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(add, number)
            nursery.start_soon(store.gc)
    pinned = await store.pins()
    assert len(pinned) == 8
    for pin in pinned:
        assert await store.read(pin.cid, "common", 1 << 20) == LARGE


async def test_a_second_process_can_look_beside_the_running_node(tmp_path, store):
    cid = await store.add(FILES)
    async with open_snapshots(tmp_path / "alice") as command:
        assert [pin.cid for pin in await command.pins()] == [cid]
        await command.unpin(cid)
    assert (await store.gc()).blocks == 5


async def test_a_list_of_pins_that_is_no_database_is_one_clear_error(tmp_path):
    (tmp_path / "alice" / "ipfs").mkdir(parents=True)
    (tmp_path / "alice" / "ipfs" / "pins.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match=r"list of pins .* move the file away"):
        async with open_snapshots(tmp_path / "alice"):
            pass


async def test_the_store_answers_hostile_cids_with_nothing(store):
    for cid in (b"", b"\x01", b"../../etc", b"\x01\x55\x12\x20" + b"\0" * 31, b"\xff" * 100_000):
        assert store.blocks.get(cid) is None


async def test_an_empty_file_has_the_cid_that_ipfs_gives_it(store):
    cid = await store.add({"update": b""})
    assert format_cid(cid_of_block(RAW, b"")) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert await store.read(cid, "update", 0) == b""
