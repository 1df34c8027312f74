"""What a killed node left in its home on the way into IPFS is gone at the next start, unless it is in use."""

import pytest
import torch

from node.daemon.run import run_node
from node.daemon.settings import StartSettings
from node.errors import StorageError
from node.home import Home
from node.storage.staging import staged


@pytest.mark.parametrize("used", [False, True])
async def test_a_start_removes_what_nobody_uses(tmp_path, used):
    with staged(tmp_path) as other:
        left = tmp_path / "staging" / "left"
        left.mkdir()
        (left / "update").write_bytes(b"half a snapshot")
        if used:
            with pytest.raises(StorageError, match="Kubo"):
                await run_node(_settings(tmp_path), print)
            assert left.exists()
            assert other.exists()
    if not used:
        with pytest.raises(StorageError, match="Kubo"):
            await run_node(_settings(tmp_path), print)
        assert not left.exists()


def _settings(home):
    """Of a start that ends at once, since there is no daemon."""
    return StartSettings(Home(home), home, "", ipfs="http://127.0.0.1:1", threads=torch.get_num_threads())
