"""Kill -9 in the middle of an add, and full disks: no pin without its blocks, and nothing half-written."""

import random
import shutil
import subprocess
import sys
import time

import pytest

from node.errors import StorageError
from node.storage import open_snapshots

pytestmark = pytest.mark.real


def adder(home, *arguments):
    command = [sys.executable, "-m", "tests.storage.adder", str(home), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_while_adding(home, seconds):
    """CIDs whose add was reported as done before the kill -9."""
    with adder(home) as child:
        while child.stdout.readline() == "":  # the first "adding"
            pass
        time.sleep(seconds)  # the moment of the kill is what varies; there is no event to wait for
        child.kill()
        return [line.strip() for line in child.stdout if line.startswith("bafy")]


async def test_kill_9_during_an_add_leaves_no_pin_without_its_blocks(tmp_path):
    home = tmp_path / "alice"
    generator = random.Random(7)
    done = []
    for _ in range(6):
        done += kill_while_adding(home, generator.uniform(0, 0.15))
    async with open_snapshots(home) as snapshots:
        pinned = [pin.cid for pin in await snapshots.pins()]
        assert set(done) <= set(pinned)
        for cid in pinned:
            assert len(await snapshots.read(cid, "update", 1 << 23)) == 3 << 20
        assert all(
            snapshots.blocks.get(b"\x01\x55\x12\x20" + digest) for digest, _ in snapshots.blocks.files() if digest
        )
        await snapshots.gc()
        assert {digest for digest, _ in snapshots.blocks.files()} == snapshots._catalogue.digests()
        for cid in pinned:
            assert len(await snapshots.read(cid, "mixed.safetensors", 1 << 23)) == 1 << 20


async def test_a_file_that_may_not_grow_is_one_clear_error_and_no_pin(tmp_path):
    home = tmp_path / "alice"
    async with open_snapshots(home):
        pass  # the database is larger than what is allowed below
    with adder(home, 100_000) as child:
        _, said = child.communicate(timeout=30)
    assert "cannot be written (File too large): free some space" in said
    async with open_snapshots(home) as snapshots:
        assert await snapshots.pins() == []
        assert await snapshots.size() == 0


async def test_a_full_disk_is_one_clear_error_and_what_was_pinned_stays(small_disk):
    async with open_snapshots(small_disk) as snapshots:
        kept = await snapshots.add({"update": b"k" * 1_000_000})
        with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
            await snapshots.add({"update": random.Random(1).randbytes(8 << 20)})
        assert [pin.cid for pin in await snapshots.pins()] == [kept]
        assert await snapshots.size() < 1_100_000  # nothing is left of the other
        assert await snapshots.read(kept, "update", 1 << 20) == b"k" * 1_000_000
        await snapshots.add({"update": random.Random(2).randbytes(1 << 20)})


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)
