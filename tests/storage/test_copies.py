"""Copies of others' snapshots, brought into the embedded store or a real Kubo core."""

import pytest

from node.errors import ContentMissing, StorageError
from node.storage import BlockStore, Bounds, EmbeddedSnapshots, KuboBlocks, Label, open_copier, open_snapshots
from node.storage.cid import parse_cid

pytestmark = pytest.mark.real
FILES = {"update": b"u" * 600_000, "mixed.safetensors": b"m" * 3000}


def fetching_from(store):
    async def fetch(cids):
        return {cid: block for cid in cids if (block := store.blocks.get(cid)) is not None}

    return fetch


async def test_a_copy_comes_into_the_embedded_store_within_its_bounds(tmp_path):
    alice = EmbeddedSnapshots(tmp_path / "alice")
    cid = await alice.add(FILES)
    async with open_snapshots(tmp_path / "bob") as bob:
        async with open_copier(tmp_path / "bob", None, fetching_from(alice), Bounds(snapshot=10_000)) as small:
            with pytest.raises(StorageError, match="larger than the 10,000 bytes allowed"):
                await small.keep(cid, Label(7, 0, 2))
        async with open_copier(tmp_path / "bob", None, fetching_from(alice), Bounds()) as copier:
            await copier.keep(cid, Label(7, 0, 2))
        assert [(pin.cid, pin.label) for pin in await bob.pins()] == [(cid, Label(7, 0, 2))]
        assert await bob.read(cid, "update", 10**6) == FILES["update"]
        assert set(await bob.block_cids(cid)) >= {parse_cid(cid)}


async def test_a_copy_comes_into_a_kubo_daemon_which_gives_its_blocks_to_members(tmp_path, kubo_url):
    alice = EmbeddedSnapshots(tmp_path / "alice")
    cid = await alice.add({**FILES, "name": str(tmp_path).encode()})  # nobody had it before
    (tmp_path / "bob").mkdir()
    embedded = BlockStore(tmp_path / "bob" / "ipfs" / "blocks")
    blocks = KuboBlocks(embedded, kubo_url)
    assert blocks.get(parse_cid(cid)) is None
    async with (
        open_snapshots(tmp_path / "bob", kubo_url) as bob,
        open_copier(tmp_path / "bob", kubo_url, fetching_from(alice), Bounds()) as copier,
    ):
        await copier.keep(cid, Label(7, 0, 2))
        assert [(pin.cid, pin.label) for pin in await bob.pins()] == [(cid, Label(7, 0, 2))]
        assert embedded.get(parse_cid(cid)) is None  # the way leaves nothing behind
        for block in await alice.block_cids(cid):
            assert blocks.get(block) == alice.blocks.get(block)
        await bob.unpin(cid)


async def test_a_copy_that_nobody_has_is_missing(tmp_path, kubo_url):
    (tmp_path / "bob").mkdir()
    missing = await EmbeddedSnapshots(tmp_path / "alice").add({"update": b"nobody else has this"})
    for url in (None, kubo_url):
        async with open_copier(
            tmp_path / "bob", url, fetching_from(EmbeddedSnapshots(tmp_path / "none")), Bounds()
        ) as copier:
            with pytest.raises(ContentMissing):
                await copier.keep(missing, Label(7, 0, 2))
