"""The network of one session: everything in this room put together behind one object.

Knows no tensors, no ledger, and not what a round is for: who is a member, what payloads there are and what was
announced are functions of the caller's.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID

from node.errors import NetworkError, PeerError
from node.messages import Announcement, Traffic
from node.network import bitswap, exchange, rendezvous
from node.network.addresses import known_addresses, parse_peer_address
from node.network.announcements import AnnouncementBook, Equivocation, Verdict
from node.network.bitswap import Bitswap, BlockStore
from node.network.connecting import ConnectionRules, Connector
from node.network.containment import OwnFaults
from node.network.discovery import run_mdns
from node.network.fetching import ExchangeClient, FetchTimes
from node.network.gossip import Gossip
from node.network.host import HostLimits, RunningHost, run_host
from node.network.identity import Identity
from node.network.peer_book import MAX_ADDRESSES, PeerBook
from node.network.serving import ExchangeServer, PayloadSource, ServingTimes
from node.network.sink import SpoolRule
from node.network.standing import Standings

logger = logging.getLogger(__name__)

ANNOUNCEMENTS_WAITING = 4096
FIRST_TRACKER_PAUSE, LONELY_TRACKER_PAUSE, TRACKER_PAUSE = 0.25, 5.0, 60.0  # seconds between questions to a tracker
REGISTERED_SECONDS = 300.0  # how long a tracker should remember us
ASKED_OF_TRACKER = 16
PROTOCOL = TProtocol(exchange.PROTOCOL)


@dataclass(frozen=True)
class NetworkSettings:
    """Where to listen, whom to find, and what it may cost."""

    listen: tuple[str, ...]  # multiaddrs, such as /ip4/0.0.0.0/tcp/4001; port 0 chooses one
    peers: tuple[str, ...]  # multiaddrs with /p2p/
    mdns: bool
    session_id: int
    payload_limit: int  # bytes; larger announcements are refused
    trackers: tuple[str, ...] = ()  # multiaddrs with /p2p/
    ask_seconds: float = 15.0  # between questions to a random member for the members it knows
    spool: SpoolRule = field(default_factory=SpoolRule)
    connections: ConnectionRules = field(default_factory=ConnectionRules)
    host: HostLimits = field(default_factory=HostLimits)
    fetch_times: FetchTimes = field(default_factory=FetchTimes)
    serving_times: ServingTimes = field(default_factory=ServingTimes)


@asynccontextmanager
async def open_network(
    identity: Identity,
    settings: NetworkSettings,
    gate: Callable[[str], bool],
    payloads: PayloadSource,
    own_announcements: Callable[[int], Sequence[Announcement]],
) -> AsyncIterator["Network"]:
    """A running `Network` until the block ends.

    `gate` says whether a peer id is a member; `own_announcements` gives ours from a round on. They and `payloads` are
    called on the event loop and must not take long; an exception in one of them ends the network and is raised here.
    Raises NetworkError for an address that is malformed or cannot be listened on.
    """
    trackers = [parse_peer_address(text) for text in settings.trackers]
    pinned = [*map(parse_peer_address, settings.peers), *trackers]
    faults = OwnFaults()
    standings = Standings(trio.current_time)
    peers = PeerBook(identity.peer_id, trio.current_time, random.Random(identity.peer_id))  # noqa: S311  (jitter)
    for each in pinned:
        peers.pin(each.peer_id, each.address)
    admission = _Admission()
    try:
        async with run_host(identity, settings.listen, admission, settings.host) as running:
            connector = Connector(running.host, peers, gate, standings, settings.connections)
            admission.ask = connector.admits
            network = Network(identity, settings, running, connector, peers, standings, gate, faults)
            network.serve(payloads, own_announcements)
            async with network.gossip.run(settings.session_id), trio.open_nursery() as nursery:
                nursery.start_soon(faults.wait)
                nursery.start_soon(connector.run, network.greet, faults)
                nursery.start_soon(network.ask_around)
                nursery.start_soon(network.bitswap.run)
                for each in trackers:
                    nursery.start_soon(network.ask_tracker, each.peer_id)
                if settings.mdns:
                    nursery.start_soon(run_mdns, settings.session_id, identity.peer_id, running.addresses, network.hint)
                yield network
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only_leaf(group) from group.__cause__


class _Admission:
    """Lets nobody in until the connector is there to be asked."""

    ask: Callable[[str], bool] | None = None

    def __call__(self, peer_id: str) -> bool:
        return self.ask is not None and self.ask(peer_id)


class Network:
    """What the session uses of the network. `announcements` delivers each believed announcement once."""

    def __init__(
        self,
        identity: Identity,
        settings: NetworkSettings,
        running: RunningHost,
        connector: Connector,
        peers: PeerBook,
        standings: Standings,
        gate: Callable[[str], bool],
        faults: OwnFaults,
    ) -> None:
        self.peer_id = identity.peer_id
        self.standings = standings
        self._settings = settings
        self._running = running
        self._connector = connector
        self._peers = peers
        self._book = AnnouncementBook(settings.session_id, settings.payload_limit, gate)
        self._deliveries, self.announcements = trio.open_memory_channel[Announcement](ANNOUNCEMENTS_WAITING)
        self._client = ExchangeClient(settings.session_id, self._open_stream, standings, settings.fetch_times)
        self.bitswap = Bitswap(self._open_stream, standings, faults)
        self.gossip = Gossip(running.host, self._book, standings, gate, self._deliver)
        self.tracker_latency: dict[str, tuple[float, float]] = {}  # seconds of the last announce and look-up
        self._gate = gate
        self._faults = faults

    # For the session

    def addresses(self) -> list[str]:
        """Full multiaddrs, with /p2p/, at which others can reach this node."""
        return [f"{address}/p2p/{self.peer_id}" for address in self._running.addresses]

    def connected(self) -> frozenset[str]:
        """Peer ids of the members that a connection is open to."""
        return self._connector.connected()

    async def announce(self, announcement: Announcement) -> None:
        """Tells every member. Raises NetworkError if the announcement is not our own or not of this session."""
        if announcement.peer_id != self.peer_id or announcement.session_id != self._settings.session_id:
            raise NetworkError(f"not ours to announce: an update of {announcement.peer_id}; sign it with this identity")
        await self.gossip.announce(announcement)

    async def fetch(self, announcement: Announcement, holders: Sequence[str], deadline: float) -> bytes | Path:
        """The announced payload, size and SHA-256 verified; a temporary file, now the caller's, if it is large.

        Tries `holders` in turn, each going on where the last one stopped, until `deadline` (trio's clock, seconds).
        Raises PeerError.
        """
        if announcement.size > self._settings.payload_limit:
            raise PeerError(f"{announcement.peer_id} announced {announcement.size} bytes, over the session's limit")
        with trio.CancelScope(deadline=deadline):
            return await exchange.fetch(self._client, self.standings, announcement, holders, self._settings.spool)
        raise PeerError(f"no holder gave the payload of {announcement.peer_id}, round {announcement.round}, in time")

    def hint(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Notes where a member may be reached, from the ledger say; what is no address is left out."""
        self._peers.hint(peer_id, known_addresses(addresses, MAX_ADDRESSES))
        self._connector.wake()

    async def refresh(self, peer_id: str) -> None:
        """Asks a member again what was announced and whom it knows. Raises PeerError."""
        for told, addresses in await self._client.peers(peer_id, self._running.addresses):
            self._peers.hint(told, addresses)
        self._connector.wake()
        for announcement in await self._client.announcements(peer_id, 0):
            self._hear(announcement, peer_id)

    def serve_blocks(self, store: BlockStore, gate: Callable[[str], bool]) -> None:
        """From now on gives IPFS blocks of `store` over bitswap to whoever passes `gate`, strangers included."""
        self.bitswap.serve(store, gate)

    async def fetch_blocks(self, cids: Iterable[bytes], peers: Sequence[str], deadline: float) -> Mapping[bytes, bytes]:
        """The IPFS blocks that `peers` gave until `deadline` (trio's clock), by CID and checked against it.

        CIDs are in bytes, v0 or v1, with SHA-256; PeerError for others. What nobody gave is not in the mapping.
        """
        return await self.bitswap.fetch(cids, peers, deadline)

    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes on the wire by peer id; "" stands for failed handshakes and peers of long ago."""
        return self._running.traffic.traffic()

    def latency(self, peer_id: str) -> float | None:
        """Smoothed round-trip time to a connected peer, seconds; None if it is not connected or not yet known."""
        for conn in self._running.host.get_network().get_connections(ID.from_string(peer_id)):
            rtt = conn.muxed_conn.rtt()
            if rtt:
                return float(rtt)
        return None

    def equivocations(self) -> Sequence[Equivocation]:
        """Evidence against members that announced two different updates for one round."""
        return tuple(self._book.evidence)

    # Inside this room

    def serve(self, payloads: PayloadSource, own_announcements: Callable[[int], Sequence[Announcement]]) -> None:
        """Starts to answer requests for payloads, announcements, peers and blocks."""
        server = ExchangeServer(
            self._settings.session_id,
            self._gate,
            payloads,
            own_announcements,
            self._book,
            self._peers,
            self.standings,
            self._faults,
            self._settings.serving_times,
        )
        self._running.host.set_stream_handler(PROTOCOL, server.handle)
        for protocol in bitswap.PROTOCOLS:
            self._running.host.set_stream_handler(TProtocol(protocol), self.bitswap.handle)

    async def greet(self, peer_id: str) -> None:
        """Introduces us to a member that has just connected, and learns what it knows."""
        try:
            await self.refresh(peer_id)
        except PeerError as error:
            logger.info("%s", error)
        await self.gossip.welcome(peer_id)

    async def ask_around(self) -> None:
        """Asks a random member now and then: GossipSub does not repeat, and members move."""
        chance = random.Random(self.peer_id)  # noqa: S311  (jitter)
        while True:
            await trio.sleep(self._settings.ask_seconds * chance.uniform(0.5, 1.5))
            connected = sorted(self.connected())
            if connected:
                try:
                    await self.refresh(chance.choice(connected))
                except PeerError as error:
                    logger.info("%s", error)

    async def ask_tracker(self, tracker: str) -> None:
        """Announces us to a tracker and takes its hints: often as long as we know nobody, then now and then."""
        chance = random.Random(self.peer_id)  # noqa: S311  (jitter)
        pause = FIRST_TRACKER_PAUSE
        while True:
            try:
                await self._consult(tracker)
            except PeerError as error:
                logger.info("%s", error)
            pause = min(2 * pause, TRACKER_PAUSE if self.connected() else LONELY_TRACKER_PAUSE)
            await trio.sleep(pause * chance.uniform(0.5, 1.0))

    async def _consult(self, tracker: str) -> None:
        stream = await self._open_stream(tracker, [rendezvous.PROTOCOL])
        namespace = rendezvous.namespace_of(self._settings.session_id)
        try:
            began = trio.current_time()
            await rendezvous.announce(stream, namespace, self.peer_id, self._running.addresses, REGISTERED_SECONDS)
            announced = trio.current_time()
            found = await rendezvous.look_up(stream, namespace, ASKED_OF_TRACKER)
            self.tracker_latency[tracker] = (announced - began, trio.current_time() - announced)
        finally:
            await rendezvous.finish(stream)
        for peer_id, addresses in found.members:
            self._peers.hint(peer_id, addresses)
        self._connector.wake()

    def _hear(self, announcement: Announcement, teller: str) -> None:
        verdict = self._book.judge(announcement)
        if verdict is Verdict.NEW:
            self._deliver(announcement)
        elif verdict is Verdict.EQUIVOCATION:
            self.standings.penalize(announcement.peer_id, 50.0, verdict.value)
        elif verdict is Verdict.FOREIGN_SESSION:
            self.standings.penalize(teller, 5.0, verdict.value)

    def _deliver(self, announcement: Announcement) -> None:
        if announcement.peer_id == self.peer_id:
            return
        try:
            self._deliveries.send_nowait(announcement)
        except trio.WouldBlock:
            self.standings.refused["announcements-not-collected"] += 1
        except trio.BrokenResourceError:
            return  # the session has stopped listening

    async def _open_stream(self, peer_id: str, protocols: Sequence[str] = (exchange.PROTOCOL,)) -> INetStream:
        await self._connector.connect(peer_id)
        try:
            return await self._running.host.new_stream(ID.from_string(peer_id), list(map(TProtocol, protocols)))
        except BaseLibp2pError as error:
            raise PeerError(f"peer {peer_id} opens no stream for {protocols[0]} ({error}); retrying") from error


def _only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in nested groups, which is what callers can catch; the group itself if there are several."""
    leaves = {id(leaf): leaf for leaf in _leaves(group)}
    return leaves.popitem()[1] if len(leaves) == 1 else group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
