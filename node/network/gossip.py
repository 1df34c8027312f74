"""Announcements over GossipSub: only members take part, and nothing is delivered or forwarded before it is judged.

Knows what an announcement is and no payload. The parameters are those measured for small sessions.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.abc import IHost
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.anyio_service import background_trio_service

from node.causes import Cause
from node.errors import PeerError
from node.messages import NOTE_LIMIT, Announcement
from node.network.containment import containing
from node.network.members_pubsub import MembersPubsub, session_router
from node.network.standing import Standings, TokenBuckets
from node.network.wire import announcement_message, decode, read_announcement
from node.network.wire_pb2 import Announcement as AnnouncementMessage

MAX_MESSAGE = 1024 + NOTE_LIMIT  # bytes; an announcement without its note has about 250
MESSAGES_PER_SECOND = 200.0  # from one neighbor
MESSAGE_BURST = 2000.0
MAX_BUCKETS = 1024


def topic_of(session_id: int) -> str:
    """The session's topic (docs/protocol.md, section 3)."""
    return f"/fl-node/1/{session_id:016x}/updates"


class Gossip:
    """Announces and hears. `hear` judges an announcement from a peer, and says whether to forward it."""

    def __init__(
        self,
        host: IHost,
        standings: Standings,
        gate: Callable[[str], bool],
        hear: Callable[[Announcement, str], bool],
    ) -> None:
        self._standings = standings
        self._gate = gate
        self._hear = hear
        self._buckets = TokenBuckets(trio.current_time, MESSAGES_PER_SECOND, MESSAGE_BURST, MAX_BUCKETS)
        self._pubsub: MembersPubsub | None = None
        self._host = host
        self._topic = ""

    @asynccontextmanager
    async def run(self, session_id: int) -> AsyncIterator[None]:
        """Takes part in the session's topic until the block ends."""
        self._topic = topic_of(session_id)
        router = session_router()
        self._pubsub = pubsub = MembersPubsub(self._host, router, self._topic, self._gate, self._admit, self._standings)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            await pubsub.subscribe(self._topic)
            yield

    async def announce(self, announcement: Announcement) -> None:
        """Tells the mesh."""
        assert self._pubsub is not None
        await self._pubsub.publish(self._topic, announcement_message(announcement).SerializeToString())

    async def welcome(self, peer_id: str) -> None:
        """Makes sure that a connected member takes part; needed for one that was admitted after it connected."""
        if self._pubsub is not None:
            with containing("gossip stream", peer_id):
                await self._pubsub.ensure_peer_stream(ID.from_string(peer_id), timeout=5.0)

    def neighbors(self) -> frozenset[str]:
        """The peers that we gossip with."""
        return frozenset(map(str, self._pubsub.peers)) if self._pubsub is not None else frozenset()

    def _admit(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Whether a message is new, valid and worth forwarding; delivers it if so."""
        sender = str(forwarder)
        if not self._buckets.take(sender):
            self._standings.penalize(sender, 1.0, Cause.ANNOUNCEMENT_FLOOD)
            return False
        try:
            announcement = _read(message.data, sender)
        except PeerError as error:
            self._standings.penalize(sender, 10.0, Cause.BAD_ANNOUNCEMENT, error)
            return False
        return self._hear(announcement, sender)


def _read(data: bytes, sender: str) -> Announcement:
    if len(data) > MAX_MESSAGE:
        raise PeerError(f"an announcement of {len(data)} bytes, over {MAX_MESSAGE}; dropped")
    return read_announcement(decode(AnnouncementMessage, data, sender))
