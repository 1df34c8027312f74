"""A visitor without a session: asks nodes that were named for IPFS blocks, and leaves. Is no member anywhere."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from node.messages import Announcement
from node.network.addresses import parse_peer_address
from node.network.identity import identity_from_seed
from node.network.service import NetworkSettings, open_network


async def fetch_block_as_guest(cid: bytes, peers: Sequence[str], seconds: float) -> bytes | None:
    """The block of a CID (bytes), checked against it, from one of `peers` (multiaddrs with /p2p/); None if none has it.

    Raises NetworkError for a malformed address.
    """
    async with visiting(peers, seconds) as fetch:
        return (await fetch([cid])).get(cid)


@asynccontextmanager
async def visiting(
    peers: Sequence[str], seconds: float
) -> AsyncIterator[Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, bytes]]]]:
    """A way to fetch blocks by CID (bytes) from `peers` (multiaddrs with /p2p/), `seconds` at most for one batch.

    Listens nowhere that others can reach. Raises NetworkError for a malformed address.
    """
    settings = NetworkSettings(
        listen=("/ip4/127.0.0.1/tcp/0",), peers=tuple(peers), mdns=False, session_id=0, payload_limit=0
    )
    asked = [parse_peer_address(peer).peer_id for peer in peers]
    guest = identity_from_seed(secrets.token_bytes(32))
    async with open_network(guest, settings, _is_nobody, _NoPayloads(), _nothing_said) as network:

        async def fetch(cids: Sequence[bytes]) -> Mapping[bytes, bytes]:
            return await network.fetch_blocks(cids, asked, trio.current_time() + seconds)

        yield fetch


class _NoPayloads:
    def open(self, digest: bytes) -> None:
        """A guest has none."""


def _is_nobody(peer_id: str) -> bool:  # noqa: ARG001  (a gate)
    return False


def _nothing_said(since: int) -> Sequence[Announcement]:  # noqa: ARG001
    return ()
