"""A session file in a real Kubo core is found by its CID."""

import pytest
import trio

from node.config import FILE_LIMIT
from node.errors import SessionFileError
from node.sources import Ways, read_source, session_cid
from node.storage import open_snapshots

pytestmark = pytest.mark.real


@pytest.fixture
def kept(kubo_url, tmp_path):
    """Puts a file into the daemon."""

    async def add(content):
        async with open_snapshots(tmp_path, kubo_url) as snapshots:
            await snapshots.add({"session.toml": content})

    return lambda content: trio.run(add, content)


def test_a_session_file_comes_from_kubo_by_its_cid(kubo_url, kept):
    kept(b"a session")
    assert read_source(session_cid(b"a session"), Ways(ipfs=kubo_url)) == b"a session"
    assert read_source(f"ipfs://{session_cid(b'a session')}", Ways(ipfs=kubo_url)) == b"a session"


def test_a_file_in_kubo_that_is_too_large_is_refused(kubo_url, kept):
    content = b"#" * (FILE_LIMIT + 1)
    kept(content)
    with pytest.raises(SessionFileError):
        read_source(session_cid(content), Ways(ipfs=kubo_url))
