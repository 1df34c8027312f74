"""A tracker: a small directory where members announce themselves and look up some others (libp2p rendezvous).

It is told no update, and whoever asks learns only addresses, which members give to one another anyway. Registrations
expire; namespaces, registrations, requests and connections are bounded.
"""

import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message

from node.causes import Cause
from node.network.delimited import decode_peer, receive, send
from node.network.host import HostLimits, RunningHost, run_host
from node.network.identity import Identity
from node.network.metrics import Metric
from node.network.registrations import COOKIE_BYTES, Directory, TrackerRules
from node.network.relaying import Relay
from node.network.rendezvous import PROTOCOL, peer_message
from node.network.standing import TokenBuckets
from node.network.tracker_metrics import TrackerCounts, tracker_metrics

logger = logging.getLogger(__name__)

Status = Message.ResponseStatus

REFUSALS: Mapping[Cause, tuple[Status.ValueType, str]] = {
    Cause.TRACKER_FLOOD: (Status.E_UNAVAILABLE, "too many requests; slow down"),
    Cause.TRACKER_FULL: (Status.E_UNAVAILABLE, "this tracker is full"),
    Cause.BAD_REGISTRATION: (Status.E_NOT_AUTHORIZED, "a peer registers itself, with addresses over TCP"),
    Cause.BAD_NAMESPACE: (Status.E_INVALID_NAMESPACE, "a namespace has 1 to 256 characters"),
    Cause.BAD_COOKIE: (Status.E_INVALID_COOKIE, "this cookie is not from here"),
}


class Tracker:
    """Answers the rendezvous protocol on a host."""

    def __init__(self, running: RunningHost, rules: TrackerRules, chance: random.Random) -> None:
        self.running = running
        self.counts = TrackerCounts()
        self.relay: Relay | None = None
        self.directory = Directory(rules, chance)
        self._rules = rules
        self._buckets = TokenBuckets(trio.current_time, rules.per_second, rules.burst, rules.max_members)
        self._tallied_at = trio.current_time()

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
            self.tally()
            self.directory.expire(trio.current_time())

    def tally(self) -> None:
        """Adds up for how long members have been registered; called before their number changes."""
        now = trio.current_time()
        self.counts.member_seconds += self.directory.total() * (now - self._tallied_at)
        self._tallied_at = now

    def metrics(self) -> list[Metric]:
        """What it costs and how quick it is, for `metrics.prometheus_text`."""
        self.tally()
        relayed = self.relay.metrics() if self.relay else []
        return [*tracker_metrics(self.counts, self.directory, self.running), *relayed]

    def _answer(self, peer_id: str, request: Message) -> Message | None:
        began = time.perf_counter()
        self.tally()
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
        if not self._buckets.take(peer_id):
            return self._registered(*self._refused(peer_id, Cause.TRACKER_FLOOD))
        if named is None or named[0] != peer_id or not named[1]:
            return self._registered(*self._refused(peer_id, Cause.BAD_REGISTRATION))
        if not _is_namespace(request.ns):
            return self._registered(*self._refused(peer_id, Cause.BAD_NAMESPACE))
        seconds = min(max(float(request.ttl), self._rules.shortest), self._rules.longest)
        refusal = self.directory.register(request.ns, peer_id, named[1], trio.current_time() + seconds)
        if refusal is not None:
            return self._registered(*self._refused(peer_id, Cause.TRACKER_FULL, refusal))
        return self._registered(Status.OK, "", int(seconds))

    def _registered(self, status: Status.ValueType, text: str, seconds: int = 0) -> Message:
        response = Message.RegisterResponse(status=status, statusText=text, ttl=seconds)
        return Message(type=Message.REGISTER_RESPONSE, registerResponse=response)

    def _discover(self, peer_id: str, request: Message.Discover) -> Message:
        if not self._buckets.take(peer_id):
            return self._discovered(*self._refused(peer_id, Cause.TRACKER_FLOOD))
        if not _is_namespace(request.ns):
            return self._discovered(*self._refused(peer_id, Cause.BAD_NAMESPACE))
        if request.cookie and len(request.cookie) != COOKIE_BYTES:
            return self._discovered(*self._refused(peer_id, Cause.BAD_COOKIE))
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
        response = Message.DiscoverResponse(status=status, statusText=text, registrations=registrations, cookie=cookie)
        return Message(type=Message.DISCOVER_RESPONSE, discoverResponse=response)

    def _refused(self, peer_id: str, cause: Cause, why: str = "") -> tuple[Status.ValueType, str]:
        """Counts; the status and the text of the answer."""
        status, text = REFUSALS[cause]
        self.running.tally.count(cause, peer_id, why)
        return status, why or text


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
