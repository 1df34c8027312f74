"""The parts that a network is made of, and how they are put together on a running host.

The only place, beside `service.py`, that knows all of them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID

from node.causes import Cause
from node.errors import PeerError
from node.messages import Announcement
from node.network import bitswap, exchange, kademlia
from node.network.announcements import AnnouncementBook
from node.network.bitswap import Bitswap
from node.network.connecting import Connector
from node.network.containment import OwnFaults
from node.network.fetching import ExchangeClient
from node.network.gossip import Gossip
from node.network.hearing import Hearing
from node.network.host import RunningHost
from node.network.identity import Identity
from node.network.kademlia import Kademlia
from node.network.lateness import LatenessMeter
from node.network.peer_book import PeerBook
from node.network.serving import ExchangeServer, PayloadSource
from node.network.settings import NetworkSettings
from node.network.standing import Standings

ANNOUNCEMENTS_WAITING = 4096


@dataclass(frozen=True)
class Caller:
    """What the caller provides: who is a member, its payloads, its own announcements from a round on."""

    gate: Callable[[str], bool]
    payloads: PayloadSource
    own_announcements: Callable[[int], Sequence[Announcement]]


class Inbox:
    """Announcements that were believed, on their way to the session."""

    def __init__(self, own_id: str, standings: Standings) -> None:
        self._own_id = own_id
        self._standings = standings
        self._send, self.receive = trio.open_memory_channel[Announcement](ANNOUNCEMENTS_WAITING)

    def deliver(self, announcement: Announcement) -> None:
        """Hands over an announcement of somebody else; it is lost, and counted, if thousands wait already."""
        if announcement.peer_id == self._own_id:
            return
        try:
            self._send.send_nowait(announcement)
        except trio.WouldBlock:
            self._standings.count(Cause.ANNOUNCEMENTS_NOT_COLLECTED, announcement.peer_id)
        except trio.BrokenResourceError:
            return  # the session has stopped listening


@dataclass
class Grants:
    """Who makes grants of a sealed session's key; nobody, until somebody is named."""

    make: Callable[[str], bytes | None] | None = None

    def of(self, peer_id: str) -> bytes | None:
        """The grant for a member, None if there is nobody to make it."""
        return None if self.make is None else self.make(peer_id)


@dataclass(frozen=True)
class Parts:
    """Everything that runs on one host for one session."""

    identity: Identity
    settings: NetworkSettings
    running: RunningHost
    gate: Callable[[str], bool]
    faults: OwnFaults
    standings: Standings
    peers: PeerBook
    connector: Connector
    book: AnnouncementBook
    inbox: Inbox
    hearing: Hearing
    gossip: Gossip
    client: ExchangeClient
    bitswap: Bitswap
    directory: Kademlia
    lateness: LatenessMeter
    grants: Grants


class StreamOpener:
    """Opens streams to peers, connecting to them first if need be. Raises PeerError."""

    def __init__(self, running: RunningHost, connector: Connector) -> None:
        self._host = running.host
        self._connector = connector

    async def __call__(self, peer_id: str, protocols: Sequence[str] = (exchange.PROTOCOL,)) -> INetStream:
        """A stream on the first of `protocols` that the peer speaks."""
        await self._connector.connect(peer_id)
        try:
            return await self._host.new_stream(ID.from_string(peer_id), list(map(TProtocol, protocols)))
        except BaseLibp2pError as error:
            raise PeerError(f"peer {peer_id} opens no stream for {protocols[0]} ({error}); retrying") from error


def assemble(identity: Identity, settings: NetworkSettings, running: RunningHost, caller: Caller) -> Parts:
    """The parts, with the host answering the exchange and bitswap protocols."""
    standings, faults = Standings(trio.current_time, tally=running.tally), OwnFaults()
    chance = random.Random(identity.peer_id)  # noqa: S311  (jitter)
    peers = PeerBook(identity.peer_id, trio.current_time, chance, is_member=caller.gate)
    running.traffic.is_member = caller.gate
    running.door.members_at = lambda: [*running.traffic.hosts_of_members(), *peers.hosts_of_members()]
    connector = Connector(running.host, peers, caller.gate, standings, settings.connections)
    open_stream = StreamOpener(running, connector)
    book = AnnouncementBook(settings.session_id, settings.payload_limit, caller.gate)
    inbox = Inbox(identity.peer_id, standings)
    hearing = Hearing(book, standings, inbox.deliver)
    parts = Parts(
        identity=identity,
        settings=settings,
        running=running,
        gate=caller.gate,
        faults=faults,
        standings=standings,
        peers=peers,
        connector=connector,
        book=book,
        inbox=inbox,
        hearing=hearing,
        gossip=Gossip(running.host, standings, caller.gate, hearing.forwarded),
        client=ExchangeClient(settings.session_id, open_stream, standings, settings.fetch_times, book.has),
        bitswap=Bitswap(open_stream, standings, faults),
        directory=Kademlia((identity.peer_id, running.addresses), open_stream, peers.hint, running.tally),
        lateness=LatenessMeter(),
        grants=Grants(),
    )
    _answer(parts, caller)
    return parts


def _answer(parts: Parts, caller: Caller) -> None:
    server = ExchangeServer(
        parts.settings.session_id,
        caller.gate,
        caller.payloads,
        caller.own_announcements,
        parts.book,
        parts.peers,
        parts.standings,
        parts.faults,
        parts.settings.serving_times,
        parts.hearing.told,
        parts.grants.of,
    )
    parts.running.host.set_stream_handler(TProtocol(exchange.PROTOCOL), server.handle)
    for protocol in bitswap.PROTOCOLS:
        parts.running.host.set_stream_handler(TProtocol(protocol), parts.bitswap.handle)
    if parts.settings.dht:
        parts.running.host.set_stream_handler(TProtocol(kademlia.PROTOCOL), parts.directory.handle)
