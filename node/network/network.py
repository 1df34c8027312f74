"""What the session uses of the network: one object, whose parts are in the other modules of this room."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from libp2p.abc import ConnectionType, INetConn
from libp2p.peer.id import ID

from node.causes import Cause
from node.errors import AnnouncementError, NetworkError, PeerError
from node.messages import OTHERS, Announcement, Content, Traffic
from node.network import exchange
from node.network.addresses import known_addresses
from node.network.announcements import Equivocation
from node.network.asking import Asker
from node.network.bitswap_answers import BlockStore
from node.network.lateness import Lateness
from node.network.metering import NOBODY
from node.network.metrics import Metric, labelled, single
from node.network.parts import Parts
from node.network.peer_book import MAX_ADDRESSES
from node.network.standing import Standings
from node.network.upgrading import Upgrader


@dataclass(frozen=True)
class Strangers:
    """Peers that are no members, together: how many are known, connected and banned, and their bytes on the wire."""

    count: int
    connected: int
    banned: int
    traffic: Traffic  # with that of handshakes that failed


class Network:
    """`announcements` delivers each believed announcement of another member once; `standings` knows who misbehaved."""

    def __init__(self, parts: Parts, asker: Asker, upgrader: Upgrader | None = None) -> None:
        self._parts = parts
        self._asker = asker
        self._upgrader = upgrader
        self.peer_id = parts.identity.peer_id
        self.announcements: trio.MemoryReceiveChannel[Announcement] = parts.inbox.receive
        self.standings: Standings = parts.standings

    # Peers

    def addresses(self) -> list[str]:
        """Full multiaddrs, with /p2p/, at which others can reach this node."""
        return [f"{address}/p2p/{self.peer_id}" for address in self._parts.running.addresses]

    def connected(self) -> frozenset[str]:
        """Peer ids of the members that a connection is open to."""
        return self._parts.connector.connected()

    def link(self, peer_id: str) -> str | None:
        """How a peer is connected: "direct", "relayed", or None if it is not."""
        kinds = {conn.get_connection_type() for conn in self._connections(peer_id)}
        if not kinds:
            return None
        return "relayed" if kinds == {ConnectionType.RELAYED} else "direct"

    def _connections(self, peer_id: str) -> list[INetConn]:
        return list(self._parts.running.host.get_network().get_connections(ID.from_string(peer_id)))

    def hint(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Notes where a member may be reached, from the ledger say; what is no address is left out."""
        self._parts.peers.hint(peer_id, known_addresses(addresses, MAX_ADDRESSES))
        self._parts.connector.wake()

    async def refresh(self, peer_id: str, since: int = 0) -> None:
        """Asks a member again whom it knows and what was announced from round `since` on. Raises PeerError."""
        await self._asker.refresh(peer_id, since)

    # Announcements and payloads

    async def announce(self, announcement: Announcement) -> None:
        """Tells every member. Raises NetworkError if the announcement is not our own or not of this session."""
        if announcement.peer_id != self.peer_id or announcement.session_id != self._parts.settings.session_id:
            raise NetworkError(f"not ours to announce: an update of {announcement.peer_id}; sign it with this identity")
        self._parts.book.note_bytes(announcement)
        self._parts.book.note_verified(announcement.digest, announcement.size)
        await self._parts.gossip.announce(announcement)

    async def tell(self, peer_id: str, announcement: Announcement) -> None:
        """Tells one member in person, who has judged it when this returns. Raises PeerError."""
        await self._parts.client.tell(peer_id, announcement)

    async def fetch(self, announcement: Announcement, holders: Sequence[str], deadline: float) -> bytes | Path:
        """The announced payload, size and SHA-256 verified; a temporary file, now the caller's, if it is large.

        Tries `holders` in turn, each going on where the last one stopped, until `deadline` (trio's clock, seconds).
        Once the first of them has proved bad, a holder that gives nothing is not asked again.
        Raises PeerError; AnnouncementError if the size is contradicted.
        """
        parts = self._parts
        if announcement.size > parts.settings.payload_limit:
            raise PeerError(f"{announcement.peer_id} announced {announcement.size} bytes, over the session's limit")
        if parts.book.contradicts(announcement):
            error = f"{announcement.peer_id} announced {announcement.size} bytes, and their hash is of another size"
            parts.standings.penalize(announcement.peer_id, exchange.SIZE_PENALTY, Cause.WRONG_SIZE, error)
            raise AnnouncementError(f"{error}; left out")
        with trio.CancelScope(deadline=deadline):
            payload = await exchange.fetch(parts.client, parts.standings, announcement, holders, parts.settings.spool)
            parts.book.note_verified(announcement.digest, announcement.size)
            return payload
        raise PeerError(f"no holder gave the payload of {announcement.peer_id}, round {announcement.round}, in time")

    async def fetch_to(self, wanted: Content, holders: Sequence[str], deadline: float, path: Path) -> None:
        """Bytes of that size and SHA-256 in a file, which may hold the first of them from an interrupted call.

        What `holders` gave until `deadline` (trio's clock, seconds) stays there. Raises PeerError.
        """
        parts = self._parts
        with trio.CancelScope(deadline=deadline):
            await exchange.fetch(parts.client, parts.standings, wanted, holders, parts.settings.spool, path)
            return
        raise PeerError(f"no holder gave {wanted.digest.hex()[:16]}… ({wanted.size} bytes) in time")

    def announced_round(self, peer_id: str) -> int:
        """The newest round that a peer is known to have announced, by itself or by others; 0 if none."""
        return self._parts.book.newest_round(peer_id)

    def equivocations(self) -> Sequence[Equivocation]:
        """Evidence against members that announced two different updates for one round."""
        return tuple(self._parts.book.evidence)

    # The key of a sealed session

    def give_grants(self, make: Callable[[str], bytes | None]) -> None:
        """From now on answers members who ask for the session's key with what `make` gives for their peer id."""
        self._parts.grants.make = make

    async def ask_grant(self, peer_id: str) -> bytes:
        """A member's grant of the session's key to us, which may be anything. Raises PeerError."""
        return await self._parts.client.grant(peer_id)

    # Blocks

    def serve_blocks(self, store: BlockStore, gate: Callable[[str], bool]) -> None:
        """From now on gives IPFS blocks of `store` over bitswap to whoever passes `gate`, strangers included."""
        self._parts.bitswap.serve(store, gate)

    async def fetch_blocks(self, cids: Iterable[bytes], peers: Sequence[str], deadline: float) -> Mapping[bytes, bytes]:
        """The IPFS blocks that `peers` gave until `deadline` (trio's clock), by CID and checked against it.

        CIDs are in bytes, v0 or v1, with SHA-256; PeerError for others. What nobody gave is not in the mapping.
        """
        return await self._parts.bitswap.fetch(cids, peers, deadline)

    async def has_blocks(self, peer_id: str, cids: Iterable[bytes], seconds: float) -> frozenset[bytes]:
        """Which of these IPFS blocks a peer says that it has, as far as it answers in time. Raises PeerError."""
        return await self._parts.bitswap.has(peer_id, cids, seconds)

    # Numbers

    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes on the wire by peer id; "" stands for failed handshakes and peers of long ago."""
        return self._parts.running.traffic.traffic()

    def traffic_of_members(self) -> dict[str, Traffic]:
        """Bytes on the wire by member."""
        return {peer_id: each for peer_id, each in self.traffic().items() if peer_id and self._parts.gate(peer_id)}

    def strangers(self) -> Strangers:
        """All who are no members, added up: whoever likes can come under any number of names."""
        gate, traffic = self._parts.gate, self.traffic()
        apart = {peer_id: each for peer_id, each in traffic.items() if not (peer_id and gate(peer_id))}
        spent = sum(apart.values(), start=Traffic(0, 0))
        connected = sum(not gate(peer_id) for peer_id in self._parts.connector.linked())
        banned = sum(not gate(peer_id) for peer_id in self.standings.banned())
        return Strangers(len(apart.keys() - {NOBODY}), connected, banned, spent)

    def latency(self, peer_id: str) -> float | None:
        """Smoothed round-trip time to a connected peer, seconds; None if it is not connected or not yet known."""
        found = self._connections(peer_id)
        for connection in sorted(found, key=lambda each: each.get_connection_type() == ConnectionType.RELAYED):
            rtt = connection.muxed_conn.rtt()
            if rtt:
                return float(rtt)
        return None

    def lateness(self) -> Lateness:
        """How late the event loop was over the last minute, seconds."""
        return self._parts.lateness.report()

    def tracker_seconds(self) -> Mapping[str, tuple[float, float]]:
        """By tracker, how long the last announce and the last look-up took."""
        return dict(self._asker.tracker_seconds)

    def metrics(self) -> list[Metric]:
        """All of it for `metrics.prometheus_text`; peers that are no members are summed up as "others"."""
        traffic, strangers = self.traffic_of_members(), self.strangers()
        latencies = {peer_id: self.latency(peer_id) for peer_id in self.connected()}
        relayed = sum(self.link(peer_id) == "relayed" for peer_id in latencies)
        late = self.lateness()
        lateness = {"0.5": late.median, "0.99": late.p99, "1": late.worst}
        announces = {tracker: seconds for tracker, (seconds, _) in self.tracker_seconds().items()}
        look_ups = {tracker: seconds for tracker, (_, seconds) in self.tracker_seconds().items()}
        bytes_in = {peer_id: float(each.bytes_in) for peer_id, each in traffic.items()}
        bytes_in[OTHERS] = float(strangers.traffic.bytes_in)
        bytes_out = {peer_id: float(each.bytes_out) for peer_id, each in traffic.items()}
        bytes_out[OTHERS] = float(strangers.traffic.bytes_out)
        scores = {peer_id: each for peer_id, each in self.standings.scores().items() if self._parts.gate(peer_id)}
        crowd = {name: float(getattr(strangers, name)) for name in ("count", "connected", "banned")}
        known = {peer_id: seconds for peer_id, seconds in latencies.items() if seconds is not None}
        refused = self.standings.tally.by_cause()
        return [
            labelled("fl_node_received_bytes_total", "counter", "On the wire, by peer.", "peer", bytes_in),
            labelled("fl_node_sent_bytes_total", "counter", "On the wire, by peer.", "peer", bytes_out),
            single("fl_node_connected_members", "gauge", "Members connected now.", len(latencies)),
            single("fl_node_relayed_members", "gauge", "Those of them that only a relay connects.", relayed),
            labelled("fl_node_round_trip_seconds", "gauge", "Smoothed, by peer.", "peer", known),
            labelled("fl_node_peer_score", "gauge", "Below 0: misbehaved.", "peer", scores),
            labelled("fl_node_strangers", "gauge", "Peers that are no members.", "what", crowd),
            labelled("fl_node_refused_total", "counter", "What was refused, by cause.", "cause", refused),
            labelled("fl_node_loop_lateness_seconds", "gauge", "Over the last minute.", "quantile", lateness),
            labelled("fl_node_tracker_announce_seconds", "gauge", "The last one, by tracker.", "tracker", announces),
            labelled("fl_node_tracker_look_up_seconds", "gauge", "The last one, by tracker.", "tracker", look_ups),
            *(self._upgrader.metrics() if self._upgrader else ()),
        ]
