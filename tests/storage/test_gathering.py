"""Fetching a stranger's DAG: bounded in depth, blocks and bytes, and nothing of it is kept when it is refused."""

import pytest

from node.errors import ContentMissing, PeerError, StorageError
from node.storage import Bounds, open_snapshots
from node.storage.cid import DAG_PB, RAW, cid_of_block, format_cid
from node.storage.dagpb import Link, encode_directory, encode_file, encode_node
from node.storage.walker import MAX_DEPTH

LEAF = b"0123456789"


class Stranger(dict):
    """A peer that made these blocks by hand, and counts what it is asked for."""

    def __init__(self):
        super().__init__({cid_of_block(RAW, LEAF): LEAF})
        self.asked = 0

    def node(self, links, data):
        block = encode_node(links, data)
        self[cid_of_block(DAG_PB, block)] = block
        return cid_of_block(DAG_PB, block)

    async def fetch(self, cids):
        self.asked += len(cids)
        return {cid: self[cid] for cid in cids if cid in self}


@pytest.fixture
def stranger():
    return Stranger()


async def pin(tmp_path, stranger, root, bounds=None):
    bounds = bounds or Bounds(snapshot=1 << 20)
    async with open_snapshots(tmp_path, fetch=stranger.fetch, bounds=bounds) as snapshots:
        try:
            await snapshots.pin(format_cid(root))
        finally:
            pins = await snapshots.pins()
    return pins


async def test_a_chain_without_end_is_refused_at_the_greatest_depth(tmp_path, stranger):
    root = cid_of_block(RAW, LEAF)
    for number in range(40):
        root = stranger.node([Link(root, str(number), 10)], encode_directory())
    with pytest.raises(StorageError, match="nested deeper"):
        await pin(tmp_path, stranger, root)
    assert stranger.asked == MAX_DEPTH


async def test_a_flood_of_links_is_refused_before_they_are_asked_for(tmp_path, stranger):
    absent = [Link(cid_of_block(RAW, str(number).encode()), "", 1) for number in range(3000)]
    root = stranger.node(absent, encode_file([1] * 3000))
    with pytest.raises(StorageError, match="larger than"):
        await pin(tmp_path, stranger, root)
    assert stranger.asked == 1


async def test_more_bytes_than_allowed_are_refused(tmp_path, stranger):
    parts = [bytes([number]) * 200_000 for number in range(100)]
    stranger.update({cid_of_block(RAW, part): part for part in parts})
    root = stranger.node([Link(cid_of_block(RAW, part), "", 1) for part in parts], encode_file([200_000] * 100))
    with pytest.raises(StorageError, match="larger than"):
        await pin(tmp_path, stranger, root)
    assert stranger.asked <= 33
    async with open_snapshots(tmp_path) as snapshots:
        await snapshots.gc()
        assert await snapshots.size() == 0


async def test_a_block_that_is_no_node_is_refused(tmp_path, stranger):
    nonsense = b"\xff" * 100
    stranger[cid_of_block(DAG_PB, nonsense)] = nonsense
    with pytest.raises(StorageError, match="malformed"):
        await pin(tmp_path, stranger, cid_of_block(DAG_PB, nonsense))


async def test_a_dag_whose_parts_repeat_is_fetched_once(tmp_path, stranger):
    inner = stranger.node([Link(cid_of_block(RAW, LEAF), "", 10)] * 100, encode_file([10] * 100))
    root = stranger.node([Link(inner, name, 1000) for name in "abc"], encode_directory())
    (kept,) = await pin(tmp_path, stranger, root)
    assert stranger.asked == 3
    assert kept.cid == format_cid(root)


async def test_a_peer_that_fails_is_content_missing(tmp_path, stranger):
    async def fail(cids):
        raise PeerError("peer 12D3KooW hung up: try another")

    async with open_snapshots(tmp_path, fetch=fail) as snapshots:
        with pytest.raises(ContentMissing, match="hung up"):
            await snapshots.read(format_cid(stranger.node([], encode_directory())), "update", 10)


async def test_blocks_that_nobody_asked_for_are_not_kept(tmp_path, stranger):
    async def generous(cids):
        return {**await stranger.fetch(cids), cid_of_block(RAW, b"unasked"): b"unasked"}

    root = stranger.node([], encode_directory())
    async with open_snapshots(tmp_path, fetch=generous) as snapshots:
        await snapshots.pin(format_cid(root))
        assert snapshots.blocks.get(cid_of_block(RAW, b"unasked")) is None
