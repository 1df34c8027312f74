"""Where snapshots are looked for: a source that fails is passed over, what a snapshot itself lacks is not."""

import pytest
import trio

from node.audit.snapshots import SnapshotShelf
from node.errors import ContentMalformed, ContentMissing, StorageError
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
