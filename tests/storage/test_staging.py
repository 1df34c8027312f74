"""On its way into a store when a process is killed: kept while anybody may use it, removed at the next start."""

import socket
import subprocess
import sys

import pytest

from node.storage import Bounds, Label, SealedSnapshots, clear_staging, open_copier, open_snapshots
from node.storage.staging import staged

ADD = """
import sys, trio
from pathlib import Path
from node.storage import open_snapshots

async def add(home, url):
    async with open_snapshots(home, url) as snapshots:
        await snapshots.add({"update": bytes(3 << 20)})

trio.run(add, Path(sys.argv[1]), sys.argv[2])
"""


def lying_in(home):
    return sorted(path for path in (home / "staging").rglob("*") if path.is_file() and path.name != "lock")


@pytest.fixture
def silent_daemon():
    """The socket of a daemon that `answer_until_the_add` plays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def answer_until_the_add(server):
    """Says a version whenever it is asked; the connection on which an add has begun, which gets no answer."""
    version = b'{"Version": "0.36.0"}'
    while True:
        connection, _ = server.accept()
        asked = connection.recv(4096)
        if b"/add" in asked.partition(b"\r\n")[0]:
            return connection
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(version)
        connection.sendall(head + version)
        connection.close()


@pytest.mark.real
def test_a_copy_that_a_killed_add_to_kubo_left_is_removed_and_one_in_use_is_not(tmp_path, silent_daemon):
    url = f"http://127.0.0.1:{silent_daemon.getsockname()[1]}"
    child = subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), url])
    try:
        with answer_until_the_add(silent_daemon):
            [copy] = lying_in(tmp_path)
            assert copy.stat().st_size == 3 << 20
            assert clear_staging(tmp_path) == 0
            assert lying_in(tmp_path) == [copy]
            child.kill()  # SIGKILL
    finally:
        child.kill()
        child.wait()
    assert lying_in(tmp_path) == [copy]
    assert clear_staging(tmp_path) == 1
    assert lying_in(tmp_path) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


def test_what_is_used_beside_a_leftover_keeps_both(tmp_path):
    assert clear_staging(tmp_path) == 0
    with staged(tmp_path) as place:
        (place / "update").write_bytes(b"on its way")
        left = tmp_path / "staging" / "left"
        left.mkdir()
        with staged(tmp_path) as other:
            assert other != place
        assert clear_staging(tmp_path) == 0
        assert (place / "update").read_bytes() == b"on its way"
        assert left.exists()
    assert not place.exists()
    assert clear_staging(tmp_path) == 1
    assert clear_staging(tmp_path) == 0


async def test_sealed_files_and_copies_lie_in_the_home(tmp_path):
    class Inner:
        async def add(self, files, label=None):
            nonlocal seen
            seen = [path.relative_to(tmp_path / "bob").parts[0] for path in files.values()]
            return cid

    seen = []
    (tmp_path / "update").write_bytes(b"payload")
    async with open_snapshots(tmp_path / "alice") as alice:
        cid = await alice.add({"update": b"payload"})
        await SealedSnapshots(Inner(), bytes(32), tmp_path / "bob").add({"update": tmp_path / "update"})
        assert seen == ["staging"]

        async def fetch(cids):
            return {one: alice.blocks.get(one) for one in cids}

        async with open_copier(tmp_path / "bob", None, fetch, Bounds()) as copier:
            copier._through, copier._snapshots, seen = copier._snapshots, Inner(), []
            await copier.keep(cid, Label(7, 0, 2))
        assert seen == ["staging"]
    assert lying_in(tmp_path / "bob") == []
