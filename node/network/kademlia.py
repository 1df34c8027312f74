"""A distributed directory without a tracker: Kademlia among fl-nodes of all sessions, to find the members of one.

The messages are those of libp2p's DHT (FIND_NODE, ADD_PROVIDER, GET_PROVIDERS), under a protocol name of our own: it
stores who takes part in which session and nothing else. py-libp2p 0.8.1's own DHT keeps providers without bound and
dead peers for ever. Knows no update.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from node.causes import Cause, Tally
from node.errors import PeerError
from node.network.containment import is_malformed
from node.network.delimited import decode_peer, encode_addresses, encode_peer_id, receive, send
from node.network.routing import BUCKET, Contact, Place, Providers, RoutingTable, point
from node.network.standing import TokenBuckets
from node.network.wire import patience

logger = logging.getLogger(__name__)

PROTOCOL = "/fl-node/kad/1.0.0"
AT_A_TIME = 3  # questions under way during a look-up
NEAREST = 8  # peers that must have answered before a look-up ends
MAX_QUESTIONS = 60  # in one look-up
REPLY_SECONDS = 5.0
IDLE_SECONDS = 60.0
MAX_KEY = 64  # bytes
REQUESTS_PER_SECOND, REQUEST_BURST, MAX_BUCKETS = 10.0, 100.0, 4096

OpenStream = Callable[[str, Sequence[str]], Awaitable[INetStream]]
Hint = Callable[[str, Iterable[str]], None]


def key_of(session_id: int) -> bytes:
    """Under which members of a session are found: the multihash of its name."""
    return b"\x12\x20" + hashlib.sha256(f"/fl-node/1/{session_id:016x}".encode()).digest()


class Kademlia:
    """One peer of the directory. `hint` is told the addresses of peers before they are asked."""

    def __init__(self, own: Place, open_stream: OpenStream, hint: Hint, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._own = own
        self._open_stream = open_stream
        self._hint = hint
        self.table = RoutingTable(_point_of(own[0]))
        self.providers = Providers()
        self._buckets = TokenBuckets(trio.current_time, REQUESTS_PER_SECOND, REQUEST_BURST, MAX_BUCKETS)

    # Answering

    async def handle(self, stream: INetStream) -> None:
        """Answers one peer until it leaves; what is malformed ends the stream."""
        peer_id = str(stream.muxed_conn.peer_id)
        while True:
            with trio.fail_after(IDLE_SECONDS):
                request = await receive(stream, Message)
            if not self._buckets.take(peer_id):
                self._tally.count(Cause.DIRECTORY_FLOOD, peer_id)
                return
            if len(request.key) > MAX_KEY:
                self._tally.count(Cause.BAD_DIRECTORY_MESSAGE, peer_id, f"a key of {len(request.key)} bytes")
                return
            answer = self._answer(peer_id, request)
            if answer is not None:
                with trio.fail_after(REPLY_SECONDS):
                    await send(stream, answer)

    def _answer(self, peer_id: str, request: Message) -> Message | None:
        self.providers.expire(trio.current_time())
        asker = self._itself(peer_id, request.providerPeers)
        if asker is not None:
            self._saw(asker)
        if request.type == Message.ADD_PROVIDER:
            if asker is not None:
                self.providers.add(request.key, asker, trio.current_time())
            return None
        closer = [(each.peer_id, each.addresses) for each in self.table.closest(point(request.key))]
        answer = Message(type=request.type, key=request.key, closerPeers=map(_message, closer))
        if request.type == Message.GET_PROVIDERS:
            known = self.providers.of(request.key, trio.current_time())[-BUCKET:]
            answer.providerPeers.extend(map(_message, known))
        return answer

    def _itself(self, peer_id: str, named: Sequence[Message.Peer]) -> Place | None:
        """The asker as it describes itself; what it says of others is not believed."""
        for each in named[:1]:
            place = decode_peer(each.id, each.addrs)
            if place is not None and place[0] == peer_id and place[1]:
                return place
        return None

    # Asking

    async def join(self, acquaintances: Iterable[Place]) -> None:
        """Makes itself known to peers that can be reached already, and through them to its neighborhood."""
        for peer_id, addresses in acquaintances:
            if await self._ask(peer_id, Message.FIND_NODE, encode_peer_id(self._own[0])) is not None:
                self._saw((peer_id, tuple(addresses)))
        await self.look_up(Message.FIND_NODE, encode_peer_id(self._own[0]))

    async def provide(self, key: bytes) -> int:
        """Tells the peers nearest to `key` that we are one of its providers; returns how many were told."""
        nearest, _ = await self.look_up(Message.FIND_NODE, key)
        self.providers.add(key, self._own, trio.current_time())
        told = [await self._tell(contact.peer_id, key) for contact in nearest]
        return sum(told)

    async def find_providers(self, key: bytes) -> list[Place]:
        """Providers of `key`, without ourselves."""
        _, providers = await self.look_up(Message.GET_PROVIDERS, key)
        found = dict(self.providers.of(key, trio.current_time())) | providers
        found.pop(self._own[0], None)
        return list(found.items())

    async def look_up(self, kind: Message.MessageType, key: bytes) -> tuple[list[Contact], dict[str, tuple[str, ...]]]:
        """The NEAREST contacts to `key` that answered, nearest first, and the providers they named."""
        target = point(key)
        candidates = {each.peer_id: each for each in self.table.closest(target)}
        asked: set[str] = set()
        answered: dict[str, Contact] = {}
        providers: dict[str, tuple[str, ...]] = {}

        async def ask(contact: Contact) -> None:
            self._hint(contact.peer_id, contact.addresses)
            answer = await self._ask(contact.peer_id, kind, key)
            if answer is None:
                candidates.pop(contact.peer_id, None)
                return
            answered[contact.peer_id] = contact
            self.table.seen(contact)
            for place in _places(answer.providerPeers):
                providers.setdefault(*place)
            for peer_id, addresses in _places(answer.closerPeers):
                if peer_id != self._own[0] and addresses:
                    candidates.setdefault(peer_id, Contact(peer_id, _point_of(peer_id), addresses))

        while len(asked) < MAX_QUESTIONS:
            nearest = sorted(candidates.values(), key=lambda contact: contact.point ^ target)[:NEAREST]
            unasked = [contact for contact in nearest if contact.peer_id not in asked][:AT_A_TIME]
            if not unasked:
                break
            asked.update(contact.peer_id for contact in unasked)
            async with trio.open_nursery() as nursery:
                for contact in unasked:
                    nursery.start_soon(ask, contact)
        return sorted(answered.values(), key=lambda contact: contact.point ^ target)[:NEAREST], providers

    async def _ask(self, peer_id: str, kind: Message.MessageType, key: bytes) -> Message | None:
        """The peer's answer; None, and the peer forgotten, if it gives none."""
        question = Message(type=kind, key=key, providerPeers=[_message(self._own)])
        try:
            with patience(peer_id, REPLY_SECONDS):
                stream = await self._open_stream(peer_id, [PROTOCOL])
                try:
                    await send(stream, question)
                    answer = await receive(stream, Message)
                finally:
                    await _finish(stream)
        except (PeerError, BaseLibp2pError, DecodeError) as error:
            logger.info("directory: %s gives no answer (%s)", peer_id, error)
            if is_malformed(error):
                self._tally.count(Cause.BAD_DIRECTORY_ANSWER, peer_id, error)
            self.table.gone(peer_id)
            return None
        return answer

    async def _tell(self, peer_id: str, key: bytes) -> bool:
        message = Message(type=Message.ADD_PROVIDER, key=key, providerPeers=[_message(self._own)])
        try:
            with patience(peer_id, REPLY_SECONDS):
                stream = await self._open_stream(peer_id, [PROTOCOL])
                await send(stream, message)
                await stream.close()
        except (PeerError, BaseLibp2pError) as error:
            logger.info("directory: %s was not told (%s)", peer_id, error)
            return False
        return True

    def _saw(self, place: Place) -> None:
        peer_id, addresses = place
        self.table.seen(Contact(peer_id, _point_of(peer_id), addresses))
        self._hint(peer_id, addresses)


def _point_of(peer_id: str) -> int:
    return point(encode_peer_id(peer_id))


def _message(place: Place) -> Message.Peer:
    return Message.Peer(id=encode_peer_id(place[0]), addrs=encode_addresses(place[1]))


def _places(messages: Sequence[Message.Peer]) -> list[Place]:
    found = (decode_peer(each.id, each.addrs) for each in messages[: 2 * BUCKET])
    return [place for place in found if place is not None]


async def _finish(stream: INetStream) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        await stream.reset()
