"""Hole punching (DCUtR, https://github.com/libp2p/specs/blob/master/relay/DCUtR.md): two members that a relay connects,
each behind a NAT, dial each other at the same moment, so that each NAT takes the other's SYN for an answer.

Here is what both sides say in one attempt; the dials are `meeting.py`, when to try is `upgrading.py`. The messages are
py-libp2p's; docs/decisions.md says why the rest is not. An attempt that fails leaves the relayed connection as it was.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import ConnectionType, IMuxedConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from node.causes import Cause
from node.errors import PeerError
from node.network.delimited import encode_addresses, receive, send
from node.network.host import RunningHost
from node.network.meeting import Meeting, PunchRules
from node.network.observed import places
from node.network.wire import patience

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE = 4096  # bytes, as specified


class Puncher:
    """Makes and answers attempts. `outcomes` counts those it made, `refused` those of others that it did not take."""

    def __init__(
        self, running: RunningHost, gate: Callable[[str], bool], own: Callable[[], Sequence[str]], rules: PunchRules
    ) -> None:
        self._host = running.host
        self._tally = running.tally
        self.meeting = Meeting(running, rules)
        self._gate = gate
        self._own = own
        self._rules = rules
        self._under_way: set[str] = set()
        self._tries: WeakKeyDictionary[IMuxedConn, int] = WeakKeyDictionary()
        self.outcomes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        running.host.set_stream_handler(TProtocol(DCUTR), self.handle)

    async def attempt(self, peer_id: str) -> bool:
        """Whether a direct connection stands after one attempt, which we, who were dialed, begin. Raises PeerError."""
        with self._attempting(peer_id):
            try:
                with patience(peer_id, self._rules.answer):
                    told = await self._agree(peer_id)
            except (BaseLibp2pError, DecodeError) as error:
                raise PeerError(f"peer {peer_id} punches no hole ({type(error).__name__}: {error})") from error
            return await self.meeting.meet(peer_id, told, client=False)

    async def _agree(self, peer_id: str) -> list[str]:
        """The addresses to dial now: half a round trip after telling the peer to."""
        stream = await self._host.new_stream(ID.from_string(peer_id), [TProtocol(DCUTR)])
        try:
            began = trio.current_time()
            await send(stream, self._connect())
            told = await self._told(stream)
            half = (trio.current_time() - began) / 2
            await send(stream, HolePunch(type=HolePunch.SYNC))
            await trio.sleep(half)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.close()
        return told

    async def handle(self, stream: INetStream) -> None:
        """Takes part in an attempt of a member that we dialed through a relay."""
        peer_id = str(stream.muxed_conn.peer_id)
        cause = self._objection(stream.muxed_conn, peer_id)
        if cause is not None:
            self.refused[cause] += 1
            self._tally.count(Cause.HOLE_PUNCH_REFUSED, peer_id, cause)
            await stream.reset()
            return
        self._tries[stream.muxed_conn] = self._tries.get(stream.muxed_conn, 0) + 1
        with self._attempting(peer_id):
            try:
                with patience(peer_id, self._rules.answer):
                    told = await self._told(stream)
                    await send(stream, self._connect())
                    await self._next(stream, HolePunch.SYNC)
            except (BaseLibp2pError, DecodeError, PeerError):
                self.refused["broken"] += 1  # and what ends the stream is counted as a bad relay message
                raise
            await self.meeting.meet(peer_id, told, client=True)

    def _objection(self, through: IMuxedConn, peer_id: str) -> str | None:
        """Why not to take part: whoever may name addresses to us can have us dial them."""
        if not self._gate(peer_id):
            return "stranger"
        if through.get_connection_type() != ConnectionType.RELAYED or not through.is_initiator:
            return "not-relayed"
        if peer_id in self._under_way:
            return "busy"
        return "too-many" if self._tries.get(through, 0) >= self._rules.tries else None

    @contextmanager
    def _attempting(self, peer_id: str) -> Iterator[None]:
        self._under_way.add(peer_id)
        outcome = "failed"
        try:
            yield
            outcome = "direct" if self.meeting.is_direct(peer_id) else "failed"
        finally:
            self._under_way.discard(peer_id)
            self.outcomes[outcome] += 1

    # Messages

    def _connect(self) -> HolePunch:
        return HolePunch(type=HolePunch.CONNECT, ObsAddrs=encode_addresses(self._own()))

    async def _told(self, stream: INetStream) -> list[str]:
        message = await self._next(stream, HolePunch.CONNECT)
        own = set(self._own())
        return [each for each in places(message.ObsAddrs, loopback=self._rules.loopback) if each not in own]

    async def _next(self, stream: INetStream, kind: HolePunch.Type.ValueType) -> HolePunch:
        message = await receive(stream, HolePunch, MAX_MESSAGE)
        if message.type != kind:
            raise PeerError(f"message {message.type} of the hole punching protocol came where {kind} is due")
        return message
