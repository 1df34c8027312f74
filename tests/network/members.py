"""Parts that the tests of the network share: identities, payload sources, whole nodes on loopback."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.messages import Announcement, announcement_bytes
from node.network.identity import Identity, identity_from_seed
from node.network.service import Network, NetworkSettings, open_network

SESSION = 0x0123456789ABCDEF
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def identity(name: str) -> Identity:
    return identity_from_seed(hashlib.sha256(name.encode()).digest())


def announce(who: Identity, round: int, payload: bytes, session_id: int = SESSION) -> Announcement:
    digest = hashlib.sha256(payload).digest()
    signature = who.sign(announcement_bytes(session_id, round, digest, len(payload), "float32"))
    return Announcement(session_id, round, digest, len(payload), "float32", who.peer_id, signature)


@dataclass
class Shelf:
    """A payload source, and the announcements that go with it."""

    owner: Identity
    payloads: dict[bytes, bytes | Path] = field(default_factory=dict)
    announced: list[Announcement] = field(default_factory=list)
    opened: int = 0

    def open(self, digest: bytes) -> bytes | Path | None:
        self.opened += 1
        return self.payloads.get(digest)

    def since(self, round: int) -> list[Announcement]:
        return [each for each in self.announced if each.round >= round]

    def put(self, payload: bytes, round: int) -> Announcement:
        announcement = announce(self.owner, round, payload)
        self.payloads[announcement.digest] = payload
        self.announced.append(announcement)
        return announcement


def settings(peers: Sequence[str] = (), listen: str = LOOPBACK, **changes: object) -> NetworkSettings:
    values: dict[str, object] = {"mdns": False, "session_id": SESSION, "payload_limit": 64 << 20} | changes
    return NetworkSettings(listen=(listen,), peers=tuple(peers), **values)  # type: ignore[arg-type]


@asynccontextmanager
async def member(
    name: str,
    peers: Sequence[str] = (),
    shelf: Shelf | None = None,
    gate: Callable[[str], bool] = lambda peer_id: True,
    **changes: object,
) -> AsyncIterator[Network]:
    who = identity(name)
    shelf = shelf or Shelf(who)
    async with open_network(who, settings(peers, **changes), gate, shelf, shelf.since) as network:
        yield network


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until the condition holds: for states of the network that have no event of their own."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


async def meet(*networks: Network) -> None:
    """Waits until every one is connected to every other."""
    ids = {each.peer_id for each in networks}
    await until(lambda: all(ids - {each.peer_id} <= each.connected() for each in networks))
