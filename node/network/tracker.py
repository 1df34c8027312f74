"""A tracker: a small directory where members announce themselves and look up some others (libp2p rendezvous).

It is told no update, and whoever asks learns only addresses, which members give to one another anyway. Registrations
expire; namespaces, registrations, requests and connections are bounded.
"""

import hashlib
import logging
import random
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message

from node.network.delimited import decode_peer, receive, send
from node.network.host import HostLimits, RunningHost, run_host
from node.network.identity import Identity
from node.network.rendezvous import PROTOCOL, peer_message
from node.network.standing import TokenBucket

logger = logging.getLogger(__name__)

Status = Message.ResponseStatus
COOKIE_BYTES = 8


@dataclass(frozen=True)
class TrackerRules:
    """What the tracker remembers and answers."""

    longest: float = 7200.0  # seconds of a registration
    shortest: float = 120.0
    max_namespaces: int = 1024
    max_members: int = 4096  # per namespace
    max_namespaces_per_peer: int = 8
    page: int = 16  # members in one answer
    per_second: float = 2.0  # requests of one peer
    burst: float = 40.0
    idle: float = 300.0  # seconds that a stream may stay silent


@dataclass
class _Registration:
    addresses: tuple[str, ...]
    expires: float


@dataclass
class TrackerCounts:
    """What the tracker has done since it started."""

    announces: int = 0
    look_ups: int = 0
    announce_seconds: float = 0.0  # spent on answering, in all
    look_up_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)


class Directory:
    """Registrations by namespace. `clock` is seconds; `chance` decides where an answer begins."""

    def __init__(self, rules: TrackerRules, chance: random.Random) -> None:
        self._rules = rules
        self._chance = chance
        self._salt = chance.randbytes(16)
        self._namespaces: dict[str, dict[str, _Registration]] = {}
        self._rings: dict[str, list[str]] = {}  # members in an order that says nothing of when they came

    def members(self, namespace: str) -> int:
        """How many are registered."""
        return len(self._namespaces.get(namespace, ()))

    def namespaces(self) -> list[str]:
        """Those with members."""
        return list(self._namespaces)

    def register(self, namespace: str, peer_id: str, addresses: tuple[str, ...], expires: float) -> str | None:
        """Notes a member until `expires`; returns why not, if so."""
        known = self._namespaces.get(namespace, {})
        if peer_id not in known:
            mine = sum(peer_id in each for each in self._namespaces.values())
            if mine >= self._rules.max_namespaces_per_peer:
                return "too many namespaces of one peer"
            if len(known) >= self._rules.max_members:
                return "this namespace is full"
            if not known and len(self._namespaces) >= self._rules.max_namespaces:
                return "this tracker is full"
            self._rings.pop(namespace, None)
        self._namespaces.setdefault(namespace, {})[peer_id] = _Registration(addresses, expires)
        return None

    def unregister(self, namespace: str, peer_id: str) -> None:
        """Forgets a member."""
        known = self._namespaces.get(namespace, {})
        if known.pop(peer_id, None) is not None:
            self._rings.pop(namespace, None)
            if not known:
                del self._namespaces[namespace]

    def expire(self, now: float) -> None:
        """Forgets whoever has not announced itself in time."""
        for namespace, known in list(self._namespaces.items()):
            for peer_id in [peer_id for peer_id, each in known.items() if each.expires <= now]:
                self.unregister(namespace, peer_id)

    def page(
        self, namespace: str, asker: str, limit: int, cookie: bytes
    ) -> tuple[list[tuple[str, _Registration]], bytes]:
        """Some members other than the asker, from a place drawn by chance on, and the cookie for the next ones."""
        known = self._namespaces.get(namespace, {})
        ring = self._rings.get(namespace)
        if ring is None:
            ring = self._rings[namespace] = sorted(known, key=self._place)
            if not known:
                del self._rings[namespace]
        if not ring:
            return [], b""
        start = int.from_bytes(cookie[:4], "big") if cookie else self._chance.randrange(len(ring))
        served = int.from_bytes(cookie[4:], "big") if cookie else 0
        chosen = [ring[(start + place) % len(ring)] for place in range(served, min(served + limit, len(ring)))]
        served += len(chosen)
        following = start.to_bytes(4, "big") + served.to_bytes(4, "big") if served < len(ring) else b""
        return [(peer_id, known[peer_id]) for peer_id in chosen if peer_id != asker], following

    def _place(self, peer_id: str) -> bytes:
        return hashlib.sha256(self._salt + peer_id.encode()).digest()


class Tracker:
    """Answers the rendezvous protocol on a host."""

    def __init__(self, running: RunningHost, rules: TrackerRules, chance: random.Random) -> None:
        self.running = running
        self.counts = TrackerCounts()
        self.directory = Directory(rules, chance)
        self._rules = rules
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    async def handle(self, stream: INetStream) -> None:
        """Answers one peer until it leaves; what is malformed ends the stream."""
        peer_id = str(stream.muxed_conn.peer_id)
        while True:
            with trio.fail_after(self._rules.idle):
                request = await receive(stream, Message)
            answer = self._answer(peer_id, request)
            if answer is not None:
                with trio.fail_after(self._rules.idle):
                    await send(stream, answer)

    async def expire(self) -> None:
        """Forgets expired registrations now and then, until cancelled."""
        while True:
            await trio.sleep(self._rules.shortest / 8)
            self.directory.expire(trio.current_time())

    def _answer(self, peer_id: str, request: Message) -> Message | None:
        began = time.perf_counter()
        if request.type == Message.REGISTER:
            answer = self._register(peer_id, request.register)
            self.counts.announces += 1
            self.counts.announce_seconds += time.perf_counter() - began
            return answer
        if request.type == Message.DISCOVER:
            answer = self._discover(peer_id, request.discover)
            self.counts.look_ups += 1
            self.counts.look_up_seconds += time.perf_counter() - began
            return answer
        if request.type == Message.UNREGISTER:
            self.directory.unregister(request.unregister.ns, peer_id)
        return None

    def _register(self, peer_id: str, request: Message.Register) -> Message:
        named = decode_peer(request.peer.id, request.peer.addrs)
        if not self._permit(peer_id):
            return self._registered(Status.E_UNAVAILABLE, "too many requests; slow down")
        if named is None or named[0] != peer_id or not named[1]:
            return self._registered(Status.E_NOT_AUTHORIZED, "a peer registers itself, with addresses over TCP")
        if not _is_namespace(request.ns):
            return self._registered(Status.E_INVALID_NAMESPACE, "a namespace has 1 to 256 characters")
        seconds = min(max(float(request.ttl), self._rules.shortest), self._rules.longest)
        refusal = self.directory.register(request.ns, peer_id, named[1], trio.current_time() + seconds)
        if refusal is not None:
            return self._registered(Status.E_UNAVAILABLE, refusal)
        return self._registered(Status.OK, "", int(seconds))

    def _registered(self, status: Status.ValueType, text: str, seconds: int = 0) -> Message:
        if status != Status.OK:
            self.counts.refused[Status.Name(status)] += 1
        response = Message.RegisterResponse(status=status, statusText=text, ttl=seconds)
        return Message(type=Message.REGISTER_RESPONSE, registerResponse=response)

    def _discover(self, peer_id: str, request: Message.Discover) -> Message:
        if not self._permit(peer_id):
            return self._discovered(Status.E_UNAVAILABLE, "too many requests; slow down")
        if not _is_namespace(request.ns):
            return self._discovered(Status.E_INVALID_NAMESPACE, "a namespace has 1 to 256 characters")
        if request.cookie and len(request.cookie) != COOKIE_BYTES:
            return self._discovered(Status.E_INVALID_COOKIE, "this cookie is not from here")
        limit = min(request.limit, self._rules.page) if request.limit > 0 else self._rules.page
        members, cookie = self.directory.page(request.ns, peer_id, limit, request.cookie)
        now = trio.current_time()
        registrations = [
            Message.Register(ns=request.ns, peer=peer_message(member, each.addresses), ttl=int(each.expires - now))
            for member, each in members
        ]
        return self._discovered(Status.OK, "", registrations, cookie)

    def _discovered(
        self,
        status: Status.ValueType,
        text: str,
        registrations: Sequence[Message.Register] = (),
        cookie: bytes = b"",
    ) -> Message:
        if status != Status.OK:
            self.counts.refused[Status.Name(status)] += 1
        response = Message.DiscoverResponse(status=status, statusText=text, registrations=registrations, cookie=cookie)
        return Message(type=Message.DISCOVER_RESPONSE, discoverResponse=response)

    def _permit(self, peer_id: str) -> bool:
        bucket = self._buckets.pop(peer_id, None)
        if bucket is None:
            bucket = TokenBucket(trio.current_time, self._rules.per_second, self._rules.burst)
        self._buckets[peer_id] = bucket
        if len(self._buckets) > self._rules.max_members:
            self._buckets.popitem(last=False)
        return bucket.take()


@asynccontextmanager
async def run_tracker(
    identity: Identity, listen: Sequence[str], rules: TrackerRules | None = None
) -> AsyncIterator[Tracker]:
    """A tracker that listens on `listen` until the block ends. Raises NetworkError as `open_network` does."""
    rules = rules or TrackerRules()
    limits = HostLimits(max_connections=rules.max_members)
    async with run_host(identity, listen, _everybody, limits) as running, trio.open_nursery() as nursery:
        tracker = Tracker(running, rules, random.SystemRandom())
        running.host.set_stream_handler(TProtocol(PROTOCOL), tracker.handle)
        nursery.start_soon(tracker.expire)
        yield tracker
        nursery.cancel_scope.cancel()


def _everybody(peer_id: str) -> bool:  # noqa: ARG001  (an admission)
    return True


def _is_namespace(text: str) -> bool:
    return 0 < len(text) <= 256
