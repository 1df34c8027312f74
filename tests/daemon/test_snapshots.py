"""A running node's own snapshots: the operator's policy and disk limit, with the real embedded store."""

import logging

import pytest

from node.daemon.ports import IpfsSnapshots
from node.errors import ConfigError
from node.storage import Bounds, Retention, open_snapshots, parse_retention


async def test_a_running_node_keeps_what_its_operator_wants(tmp_path):
    async with open_snapshots(tmp_path) as store:
        ipfs = IpfsSnapshots(store, 7, 2, parse_retention("last:2,every:4"))
        for round in range(1, 8):
            assert await ipfs.add(round, {"update": bytes([round]) * 100})
        assert [pin.label.round for pin in await store.pins()] == [4, 6, 7]
        assert len(list(store.blocks.files())) == 6


async def test_a_shared_daemon_keeps_its_blocks(tmp_path):
    async with open_snapshots(tmp_path) as store:
        ipfs = IpfsSnapshots(store, 7, 2, parse_retention("last:1"), collect=False)
        for round in (1, 2):
            await ipfs.add(round, {"update": bytes([round]) * 100})
        assert [pin.label.round for pin in await store.pins()] == [2]
        assert len(list(store.blocks.files())) == 4


async def test_a_full_allowance_costs_a_snapshot_and_says_so(tmp_path, caplog):
    async with open_snapshots(tmp_path, bounds=Bounds(disk=3000)) as store:
        ipfs = IpfsSnapshots(store, 7, 2)
        assert await ipfs.add(1, {"update": bytes(2000)})
        with caplog.at_level(logging.WARNING):
            assert await ipfs.add(2, {"update": bytes([1]) * 2000}) is None
    assert "round 2 has no snapshot" in caplog.text
    assert "3,000 allowed for snapshots" in caplog.text
    assert "unpin some or raise the disk limit" in caplog.text


def test_policies_are_read():
    assert parse_retention("all") is None
    assert parse_retention("last:3") == Retention(3, 0, named=False)
    assert parse_retention("every:10") == Retention(1, 10, named=False)
    assert parse_retention("every:10, last:2") == Retention(2, 10, named=False)


@pytest.mark.parametrize("text", ["", "last", "last:0", "every:-1", "last:x", "last:1,last:2", "newest:3", "last:9e9"])
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(ConfigError, match="write all, last:N"):
        parse_retention(text)
