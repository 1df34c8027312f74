"""Chooses the backend: the user's Kubo daemon where an address is given, the embedded store otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from node.storage.deadlines import deadline, in_thread
from node.storage.embedded import EmbeddedSnapshots
from node.storage.kubo import KuboSnapshots
from node.storage.kubo_rpc import KuboRpc
from node.storage.ports import Bounds, FetchBlocks

_ANSWER_SECONDS = 15.0
_DEFAULT = Bounds()


@asynccontextmanager
async def open_snapshots(
    home: Path, url: str | None = None, fetch: FetchBlocks | None = None, bounds: Bounds = _DEFAULT
) -> AsyncIterator[EmbeddedSnapshots | KuboSnapshots]:
    """The snapshots of a node. `url` is Kubo's RPC (http URL or multiaddr); `fetch` serves the embedded store only.

    Raises StorageError when the daemon does not answer or the directory cannot be used.
    """
    if url is None:
        yield await in_thread(lambda: EmbeddedSnapshots(home / "ipfs", fetch, bounds))
        return
    with deadline(_ANSWER_SECONDS, f"waiting for Kubo at {url}"):
        rpc = KuboRpc(url, bounds.seconds)
        await in_thread(rpc.version, abandon=True)
    yield await in_thread(lambda: KuboSnapshots(home, rpc, bounds))
