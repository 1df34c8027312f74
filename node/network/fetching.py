"""The asking side of the exchange protocol (docs/protocol.md, section 4): one open stream per peer, reused.

Knows no tensors. A payload's size and SHA-256 are verified before it is returned.
"""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from libp2p.abc import IMuxedConn, INetStream

from node.causes import Cause
from node.errors import IdentityError, PeerError
from node.messages import Announcement
from node.network.addresses import known_addresses
from node.network.identity import peer_id_of
from node.network.peer_book import MAX_ADDRESSES
from node.network.sink import Sink
from node.network.standing import Standings
from node.network.unfinished import Unfinished
from node.network.wire import MAX_REPLY, Frames, Malformed, TooSlow, announcement_message, patience, read_announcement
from node.network.wire_pb2 import AnnouncementsRequest, GrantRequest, PayloadRequest, PeersRequest, Reply, Request

MAX_IDLE_STREAMS = 2  # kept open per peer


@dataclass(frozen=True)
class FetchTimes:
    """Seconds that a peer may take before another is asked."""

    reply: float = 10.0
    chunk: float = 30.0  # for each chunk of a payload
    behind: float = 5.0  # of a hurried one: that it may be behind `rate`
    rate: float = 256 << 10  # bytes a second


class Refused(PeerError):
    """The peer refuses and says that asking again will not help."""


class WrongSize(PeerError):
    """The peer has the payload with another size: the peer lies, or who said the size."""


@dataclass(frozen=True)
class _Conversation:
    """An open stream, and the frames on it."""

    frames: Frames
    stream: INetStream


class ExchangeClient:
    """Asks peers. `open_stream` opens an exchange stream to a connected peer, or raises PeerError."""

    def __init__(
        self,
        session_id: int,
        open_stream: Callable[[str], Awaitable[INetStream]],
        standings: Standings,
        times: FetchTimes,
        known: Callable[[Announcement], bool],
    ) -> None:
        self._session_id = session_id
        self._known = known
        self._open_stream = open_stream
        self._standings = standings
        self._times = times
        self.unfinished = Unfinished()
        self._idle: defaultdict[str, list[_Conversation]] = defaultdict(list)

    async def announcements(self, peer_id: str, since: int) -> list[Announcement]:
        """What the peer knows to be announced from round `since` on. Raises PeerError."""
        request = Request(announcements=AnnouncementsRequest(session_id=self._session_id, since_round=since))
        async with self._conversation(peer_id) as frames:
            reply = await self._ask(frames, request, "announcements")
        try:
            return [read_announcement(each, self._known) for each in reply.announcements.announcements]
        except PeerError as error:
            self._standings.penalize(peer_id, 20.0, Cause.BAD_REPLY, error)
            raise

    async def tell(self, peer_id: str, announcement: Announcement) -> None:
        """Pushes an announcement to the peer; when it returns, the peer has judged it. Raises PeerError."""
        async with self._conversation(peer_id) as frames:
            await self._ask(frames, Request(tell=announcement_message(announcement)), "announcements")

    async def grant(self, peer_id: str) -> bytes:
        """The peer's grant of the session's key to us. Raises PeerError."""
        async with self._conversation(peer_id) as frames:
            reply = await self._ask(frames, Request(grant=GrantRequest(session_id=self._session_id)), "grant")
        return bytes(reply.grant.grant)

    async def peers(self, peer_id: str, own_addresses: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Other members and their addresses as far as the peer knows; tells it ours. Raises PeerError."""
        request = Request(peers=PeersRequest(session_id=self._session_id, own_addresses=own_addresses))
        async with self._conversation(peer_id) as frames:
            reply = await self._ask(frames, request, "peers")
        try:
            return [
                (peer_id_of(each.public_key), known_addresses(each.addresses, MAX_ADDRESSES))
                for each in reply.peers.peers
            ]
        except IdentityError as error:
            self._standings.penalize(peer_id, 20.0, Cause.BAD_REPLY, error)
            raise PeerError(f"peer {peer_id} names a peer that cannot be: {error}") from error

    async def fetch_into(self, sink: Sink, peer_id: str, hurried: bool = False) -> None:
        """Continues `sink` with the peer's copy, up to its end. Raises PeerError; the sink keeps what arrived.

        A `hurried` peer has to keep up a lowest rate from the question on.
        """
        with trio.move_on_after(self._times.behind if hurried else math.inf) as turn:
            await self._fetch_into(sink, peer_id, turn)
        if turn.cancelled_caught:
            raise TooSlow(f"peer {peer_id} gives less than {self._times.rate / 1024:.0f} KiB a second; asking another")

    async def _fetch_into(self, sink: Sink, peer_id: str, turn: trio.CancelScope) -> None:
        request = Request(payload=PayloadRequest(digest=sink.digest, offset=sink.received))
        async with self._conversation(peer_id) as frames:
            reply = await self._ask(frames, request, "header")
            if reply.header.size != sink.size:
                raise WrongSize(f"peer {peer_id} has {reply.header.size} bytes, not the {sink.size} announced")
            while sink.received < sink.size:
                await self._receive_chunk(frames, sink, turn)

    async def _receive_chunk(self, frames: Frames, sink: Sink, turn: trio.CancelScope) -> None:
        with patience(frames.peer_id, self._times.chunk):
            left = await frames.chunk_size()
            if left > sink.size - sink.received:
                self._standings.penalize(frames.peer_id, 20.0, Cause.WRONG_SIZE)
                raise PeerError(f"peer {frames.peer_id} sent more than the {sink.size} bytes announced; dropped")
            while left:
                pieces = await frames.some(left)
                count = sum(map(len, pieces))
                left -= count
                await sink.write(pieces)
                if turn.deadline < math.inf:  # bytes earn time, and none can be saved up
                    earned = turn.deadline + count / self._times.rate
                    turn.deadline = min(earned, trio.current_time() + self._times.behind)

    def forget(self, peer_id: str) -> None:
        """Drops the idle streams of a peer that has left."""
        self._idle.pop(peer_id, None)

    async def leave(self, conn: IMuxedConn) -> None:
        """Closes the idle streams on a connection that is not to be used any more."""
        idle = self._idle[str(conn.peer_id)]
        leaving = [each for each in idle if each.stream.muxed_conn is conn]
        idle[:] = [each for each in idle if each not in leaving]
        for each in leaving:
            await each.stream.reset()

    @asynccontextmanager
    async def _conversation(self, peer_id: str) -> AsyncIterator[Frames]:
        """A stream for one request; it is kept if the block ends well, and reset otherwise."""
        idle = self._idle[peer_id]
        while idle and idle[-1].frames.is_over:
            idle.pop()
        conversation = idle.pop() if idle else await self._connect(peer_id)
        finished = False
        try:
            yield conversation.frames
            finished = True
        except Malformed as error:
            self._standings.penalize(peer_id, 20.0, Cause.BAD_REPLY, error)
            raise
        finally:
            if finished and len(idle) < MAX_IDLE_STREAMS:
                idle.append(conversation)
            else:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await conversation.stream.reset()

    async def _connect(self, peer_id: str) -> _Conversation:
        with patience(peer_id, self._times.reply):
            stream = await self._open_stream(peer_id)
        return _Conversation(Frames(stream.muxed_stream, peer_id), stream)

    async def _ask(self, frames: Frames, request: Request, expected: str) -> Reply:
        with patience(frames.peer_id, self._times.reply):
            await frames.send(request)
            reply = await frames.receive(Reply, MAX_REPLY)
        kind = reply.WhichOneof("kind")
        if kind == "refusal":
            refusal = Refused if reply.refusal.final else PeerError
            raise refusal(f"peer {frames.peer_id} refuses: {reply.refusal.reason[:200]}")
        if kind != expected:
            self._standings.penalize(frames.peer_id, 20.0, Cause.WRONG_REPLY)
            raise PeerError(f"peer {frames.peer_id} answered with {kind}, not {expected}; dropped")
        return reply
