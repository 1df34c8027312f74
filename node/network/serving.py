"""The answering side of the exchange protocol (docs/protocol.md, section 4): members ask, we answer.

Knows no tensors and no ledger: payloads, announcements and membership are functions of the caller's.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import trio
from libp2p.abc import INetStream

from node.causes import Cause
from node.errors import PeerError
from node.messages import Announcement
from node.network.addresses import known_addresses
from node.network.announcements import AnnouncementBook, newest_of_each
from node.network.containment import OwnFaults
from node.network.identity import public_key_of
from node.network.peer_book import MAX_ADDRESSES, PeerBook
from node.network.standing import Standings, TokenBuckets
from node.network.wire import (
    DIGEST_BYTES,
    FULL_CHUNK,
    MAX_REPLY,
    MAX_REQUEST,
    Frames,
    Malformed,
    TooSlow,
    announcement_message,
    patience,
    read_announcement,
)
from node.network.wire_pb2 import Announcements, Grant, Header, Peer, Peers, Refusal, Reply, Request

logger = logging.getLogger(__name__)

MAX_ANNOUNCEMENTS = 1024  # in one reply
MAX_PEERS = 256
MAX_STREAMS_PER_PEER = 8
MAX_TRANSFERS_PER_PEER = 4  # payloads on their way at a time
MAX_TRANSFERS = 64  # each holds about 3 MiB
REQUESTS_PER_SECOND = 50.0
SLOW_PENALTY = 2.0  # small: a link may be slow through no fault of the peer's
STRANGER_PENALTY = 0.5  # small: it may be a member that we have not read of yet
REQUEST_BURST = 500.0
MAX_BUCKETS = 4096


class PayloadSource(Protocol):
    """Where payloads come from. Called on the event loop, so it must not take long."""

    def open(self, digest: bytes) -> Path | bytes | None:
        """The payload whose SHA-256 is `digest`, as a file or as bytes; None if it is not (or no longer) here."""


@dataclass(frozen=True)
class ServingTimes:
    """Seconds that a peer may take."""

    idle: float = 900.0  # until the next request on an open stream
    request: float = 10.0  # for the rest of a request that has begun
    chunk: float = 30.0  # to take one chunk


@dataclass
class ExchangeServer:
    """Serves exchange streams; one object per network."""

    session_id: int
    gate: Callable[[str], bool]
    payloads: PayloadSource
    own_announcements: Callable[[int], Sequence[Announcement]]
    announcements: AnnouncementBook
    peers: PeerBook
    standings: Standings
    faults: OwnFaults
    times: ServingTimes
    hear: Callable[[Announcement, str], None]  # takes in what a member pushes to us
    grant: Callable[[str], bytes | None]  # the key of a sealed session, for one member; None if it is not here

    def __post_init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._sending: Counter[str] = Counter()
        self._buckets = TokenBuckets(trio.current_time, REQUESTS_PER_SECOND, REQUEST_BURST, MAX_BUCKETS)

    async def handle(self, stream: INetStream) -> None:
        """Answers one peer's requests until it leaves, or breaks a rule."""
        peer_id = str(stream.muxed_conn.peer_id)
        self._open[peer_id] += 1
        frames = Frames(stream.muxed_stream, peer_id)
        try:
            if self._open[peer_id] > MAX_STREAMS_PER_PEER:
                self.standings.count(Cause.TOO_MANY_EXCHANGES, peer_id)
                await self._refuse(frames, f"{MAX_STREAMS_PER_PEER} streams are open already; use those")
                return
            while await self._has_begun(frames) and await self._answer_one(frames):
                pass
        except Malformed as error:
            self.standings.penalize(peer_id, 10.0, Cause.BAD_REQUEST, error)
        except TooSlow as error:  # in the middle of a request or an answer
            self.standings.penalize(peer_id, SLOW_PENALTY, Cause.TOO_SLOW, error)
        except PeerError as error:
            logger.debug("%s", error)
        finally:
            self._open[peer_id] -= 1
            if not self._open[peer_id]:
                del self._open[peer_id]

    async def _has_begun(self, frames: Frames) -> bool:
        """Waits for a request's first byte; False if none comes: an idle stream is nobody's fault."""
        with trio.move_on_after(self.times.idle) as silence:
            await frames.begin()
        return not silence.cancelled_caught

    async def _answer_one(self, frames: Frames) -> bool:
        """Whether the stream goes on."""
        with patience(frames.peer_id, self.times.request):
            request = await frames.receive(Request, MAX_REQUEST)
        with self.faults.ours():
            member = self.gate(frames.peer_id)
        if not member:
            self.standings.penalize(frames.peer_id, STRANGER_PENALTY, Cause.STRANGER_ASKS)
            await self._refuse(frames, "you are no member of this session; join it on its ledger", final=True)
            return False
        if not self._buckets.take(frames.peer_id):
            self.standings.penalize(frames.peer_id, 1.0, Cause.TOO_MANY_REQUESTS)
            await self._refuse(frames, "too many requests; slow down")
            return False
        return await self._dispatch(frames, request)

    async def _dispatch(self, frames: Frames, request: Request) -> bool:
        kind = request.WhichOneof("kind")
        if kind == "payload":
            return await self._send_payload(frames, request.payload.digest, request.payload.offset)
        if kind == "announcements":
            return await self._send_announcements(
                frames, request.announcements.session_id, request.announcements.since_round
            )
        if kind == "peers":
            return await self._send_peers(frames, request.peers.session_id, list(request.peers.own_addresses))
        if kind == "tell":
            return await self._listen(frames, request)
        if kind == "grant":
            return await self._send_grant(frames, request.grant.session_id)
        self.standings.penalize(frames.peer_id, 5.0, Cause.EMPTY_REQUEST)
        return await self._refuse(frames, "this request is not known here", final=True)

    async def _listen(self, frames: Frames, request: Request) -> bool:
        try:
            announcement = read_announcement(request.tell)
        except PeerError as error:
            self.standings.penalize(frames.peer_id, 10.0, Cause.BAD_ANNOUNCEMENT, error)
            return await self._refuse(frames, "that is no announcement", final=True)
        self.hear(announcement, frames.peer_id)
        return await self._reply(frames, Reply(announcements=Announcements()))

    async def _send_announcements(self, frames: Frames, session_id: int, since: int) -> bool:
        if session_id != self.session_id:
            return await self._refuse(frames, "another session is served here")
        with self.faults.ours():
            own = list(self.own_announcements(since))
        known = {(each.peer_id, each.round): each for each in [*self.announcements.since(since), *own]}
        newest = sorted(newest_of_each(known.values(), MAX_ANNOUNCEMENTS, MAX_REPLY), key=lambda each: each.round)
        message = Announcements(announcements=[announcement_message(each) for each in newest])
        return await self._reply(frames, Reply(announcements=message))

    async def _send_peers(self, frames: Frames, session_id: int, own_addresses: list[str]) -> bool:
        if session_id != self.session_id:
            return await self._refuse(frames, "another session is served here")
        self.peers.said_by_itself(frames.peer_id, known_addresses(own_addresses, MAX_ADDRESSES))
        known = self.peers.reachable(MAX_PEERS)
        peers = [
            Peer(public_key=public_key_of(peer_id), addresses=addresses)
            for peer_id, addresses in known
            if peer_id != frames.peer_id
        ]
        return await self._reply(frames, Reply(peers=Peers(peers=peers)))

    async def _send_grant(self, frames: Frames, session_id: int) -> bool:
        with self.faults.ours():
            grant = self.grant(frames.peer_id) if session_id == self.session_id else None
        if grant is None:
            return await self._refuse(frames, "the session's key is not here")
        return await self._reply(frames, Reply(grant=Grant(grant=grant)))

    async def _send_payload(self, frames: Frames, digest: bytes, offset: int) -> bool:
        payload = None
        if len(digest) == DIGEST_BYTES:
            with self.faults.ours():
                payload = self.payloads.open(digest)
        if payload is None:
            return await self._refuse(frames, "not here")
        if self._sending[frames.peer_id] >= MAX_TRANSFERS_PER_PEER or self._sending.total() >= MAX_TRANSFERS:
            self.standings.count(Cause.BUSY, frames.peer_id)
            return await self._refuse(frames, "busy; ask again")
        self._sending[frames.peer_id] += 1
        try:
            if isinstance(payload, bytes):
                return await self._send_bytes(frames, payload, offset)
            return await self._send_file(frames, payload, offset)
        finally:
            self._sending[frames.peer_id] -= 1
            self._sending = +self._sending  # drops zeros

    async def _send_bytes(self, frames: Frames, payload: bytes, offset: int) -> bool:
        if offset > len(payload):
            return await self._refuse(frames, f"the payload has {len(payload)} bytes")
        await self._reply(frames, Reply(header=Header(size=len(payload))))
        view = memoryview(payload)
        for start in range(offset, len(payload), FULL_CHUNK):
            await self._chunk(frames, view[start : start + FULL_CHUNK])
        return True

    async def _send_file(self, frames: Frames, path: Path, offset: int) -> bool:
        try:
            file, size = await trio.to_thread.run_sync(_open_at, path, offset)
        except OSError as error:
            logger.warning("cannot serve the payload %s: %s", path, error.strerror)
            return await self._refuse(frames, "not here")
        with file:
            if offset > size:
                return await self._refuse(frames, f"the payload has {size} bytes")
            await self._reply(frames, Reply(header=Header(size=size)))
            left = size - offset
            while left:
                data = await trio.to_thread.run_sync(file.read, min(FULL_CHUNK, left))
                if not data:
                    raise PeerError(f"the payload {path} shrank while it was served to {frames.peer_id}")
                left -= len(data)
                await self._chunk(frames, data)
        return True

    async def _chunk(self, frames: Frames, data: bytes | memoryview) -> None:
        with patience(frames.peer_id, self.times.chunk):
            await frames.send_chunk(data)

    async def _reply(self, frames: Frames, reply: Reply) -> bool:
        with patience(frames.peer_id, self.times.request):
            await frames.send(reply)
        return reply.WhichOneof("kind") != "refusal" or not reply.refusal.final

    async def _refuse(self, frames: Frames, reason: str, *, final: bool = False) -> bool:
        return await self._reply(frames, Reply(refusal=Refusal(reason=reason, final=final)))


def _open_at(path: Path, offset: int) -> tuple[BinaryIO, int]:
    file = path.open("rb")
    size = file.seek(0, 2)
    file.seek(min(offset, size))
    return file, size
