"""Where snapshots are looked for: a source that fails is passed over, what a snapshot itself lacks is not."""

import pytest
import trio

from node.audit.snapshots import SnapshotShelf, open_shelf
from node.errors import ConfigError, ContentMalformed, ContentMissing, StorageError
from node.storage import open_snapshots
from node.storage.cid import DAG_PB, format_cid, make_cid
from node.storage.sealing import seal_bytes


class Source:
    """Gives an answer, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    async def read(self, cid, name, limit):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer[:limit]


def read(*answers):
    return trio.run(SnapshotShelf([Source(answer) for answer in answers], 100).read, "bafy", "update")


@pytest.mark.parametrize("failure", [ContentMissing("not here"), StorageError("reading took over 30 s")])
def test_a_source_that_lacks_content_or_does_not_answer_is_passed_over(failure):
    assert read(failure, b"bytes") == b"bytes"
    assert read(failure) is None


def test_a_malformed_snapshot_is_told_apart():
    with pytest.raises(ContentMalformed):
        read(ContentMissing("not here"), ContentMalformed("no dag-pb"), b"bytes")


def test_what_the_sessions_key_does_not_open_is_its_authors_fault():
    key, other = bytes(32), bytes([1]) * 32

    def read_sealed(content):
        return trio.run(SnapshotShelf([Source(content)], 100, key).read, "bafy", "update")

    assert read_sealed(seal_bytes(b"bytes", key)) == b"bytes"
    for content in (seal_bytes(b"bytes", other), b"bytes", seal_bytes(b"bytes", key)[:-1]):
        with pytest.raises(ContentMalformed, match="not sealed with the session's key"):
            read_sealed(content)


MISSING = format_cid(make_cid(DAG_PB, bytes(32)))
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
async def shared(tmp_path):
    """A directory with a home that has a snapshot and one that is no store, and the snapshot's CID."""
    async with open_snapshots(tmp_path / "alice") as store:
        cid = await store.add({"update": b"bytes"})
    (tmp_path / "bob" / "ipfs").mkdir(parents=True)
    return tmp_path, cid


def state_of(place):
    return {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in [place, *place.rglob("*")]}


async def test_an_auditor_writes_nothing_into_the_homes_that_it_reads(shared):
    place, cid = shared
    (place / "alice" / "ipfs" / "lock").unlink(missing_ok=True)
    (place / "alice" / "ipfs" / "pins.sqlite").unlink()
    before = state_of(place)
    async with open_shelf((), place, 100) as shelf:
        assert await shelf.read(cid, "update") == b"bytes"
        assert await shelf.read(MISSING, "update") is None
    assert state_of(place) == before


async def test_a_daemon_that_does_not_answer_at_the_start_is_passed_over(shared, caplog):
    place, cid = shared
    for places in ((NOBODY, str(place / "alice")), (str(place / "alice"), NOBODY)):
        async with open_shelf(places, place, 100) as shelf:
            assert await shelf.read(cid, "update") == b"bytes"
        assert NOBODY in caplog.text
        caplog.clear()


@pytest.mark.parametrize("places", [(NOBODY,), (NOBODY, NOBODY)])
async def test_a_daemon_that_does_not_answer_is_an_error_where_nobody_is_left(places, tmp_path):
    with pytest.raises(StorageError, match=NOBODY):
        async with open_shelf(places, tmp_path, 100):
            pass


async def test_a_place_that_is_neither_home_nor_daemon_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither a node's home"):
        async with open_shelf((str(tmp_path),), tmp_path, 100):
            pass
