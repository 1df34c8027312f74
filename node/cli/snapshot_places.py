"""Where `fl-node snapshot` looks: a home's store, Kubo, peers; and what the ledger names."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import trio

from ledger import LedgerError
from node.agreement import open_session
from node.cli.options import ByteSize, F, home_option, ipfs_option, session_key_option, split
from node.daemon.recorded import Recorded, recorded_snapshots
from node.errors import ConfigError, NodeError, StorageError
from node.home import Home
from node.network.addresses import parse_peer_address
from node.network.guest import visiting
from node.storage import (
    Bounds,
    SealedSnapshots,
    Snapshots,
    open_snapshots,
    read_key,
)

T = TypeVar("T")
PEERS_S = 30.0  # for one batch of blocks from peers
DEFAULT_LIMIT = "4GiB"


@dataclass(frozen=True, slots=True)
class Place:
    """Where snapshots are looked for, and how large one may be."""

    home: Path
    ipfs: str | None
    peers: tuple[str, ...] = ()
    limit: int = 4 << 30
    key: bytes | None = None  # of a sealed session


def session_option(command: F) -> F:
    """`--session`, of which a home that was started has a copy."""
    return click.option(
        "--session",
        "session_path",
        envvar="FL_NODE_SESSION",
        help="The session file (default: the one that the home was started with).",
    )(command)


def reach_options(command: F) -> F:
    """Where to look for a snapshot: home, Kubo, peers."""
    peers = click.option(
        "--peers", envvar="FL_NODE_PEERS", multiple=True, help="Multiaddr of a node that may have it; may be repeated."
    )
    limit = click.option(
        "--limit", type=ByteSize(), default=DEFAULT_LIMIT, show_default=True, help="Refuse more bytes than that."
    )
    return home_option(ipfs_option(session_key_option(peers(limit(command)))))


def place_of(home: Path, ipfs: str | None, peers: tuple[str, ...], limit: int, session_key: Path | None) -> Place:
    """The options of `reach_options` as one value."""
    key = None if session_key is None else read_key(session_key)
    return Place(home, ipfs, tuple(str(parse_peer_address(text)) for text in split(peers)), limit, key)


def run(place: Place, work: Callable[[Snapshots], Awaitable[T]]) -> T:
    """`work` with the snapshots of a place."""

    async def opened() -> T:
        async with open_place(place) as snapshots:
            return await work(snapshots)

    return trio.run(opened)


@asynccontextmanager
async def open_place(place: Place) -> AsyncIterator[Snapshots]:
    """The home's store, a temporary one where there is no home, or Kubo; with peers to ask, if some were named."""
    if place.ipfs is not None and place.peers:
        raise ConfigError("--peers are asked by the embedded store, a Kubo daemon finds its own: leave one out")
    async with AsyncExitStack() as stack:
        root = place.home
        if not os.path.isdir(root):  # nor where its name is none
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-node-")))
        fetch = await stack.enter_async_context(visiting(place.peers, PEERS_S)) if place.peers else None
        bounds = Bounds(snapshot=place.limit)
        snapshots = await stack.enter_async_context(open_snapshots(root, place.ipfs, fetch, bounds))
        yield snapshots if place.key is None else SealedSnapshots(snapshots, place.key, root)


def read_ledger(home: Home, session_path: str | None, rpc: str | None) -> Recorded:
    """What the ledger names. Raises NodeError or LedgerError."""
    if session_path is None and not home.session_file.is_file():
        raise ConfigError(f"{home.path} has no session file yet: pass --session FILE")
    return recorded_snapshots(open_session(session_path or home.session_file, rpc))


def require_ledger(home: Home, session_path: str | None, rpc: str | None) -> Recorded:
    """As `read_ledger`; says what to do where the ledger cannot be asked."""
    try:
        return read_ledger(home, session_path, rpc)
    except (NodeError, LedgerError) as error:
        raise StorageError(f"what the ledger names is not known ({error}): nothing released; or use --force") from error
