"""A relay for nodes behind NATs (libp2p's circuit relay v2): connects two peers that cannot reach each other.

It carries ciphertext that it cannot read. Reservations, circuits and idle time are bounded; knows no session.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Reservation, Status, StopMessage

from node.causes import Cause, Tally
from node.network.circuit import ANSWER_SECONDS, HOP, STOP
from node.network.delimited import encode_peer_id, receive, send
from node.network.metrics import Metric, labelled, single

logger = logging.getLogger(__name__)

PIECE = 64 * 1024

CAUSES: Mapping[Status.ValueType, Cause] = {
    Status.UNEXPECTED_MESSAGE: Cause.BAD_RELAY_MESSAGE,
    Status.RESERVATION_REFUSED: Cause.RELAY_FULL,
    Status.RESOURCE_LIMIT_EXCEEDED: Cause.RELAY_FULL,
    Status.NO_RESERVATION: Cause.NO_RESERVATION,
    Status.CONNECTION_FAILED: Cause.RELAY_TARGET_SILENT,
}


@dataclass(frozen=True)
class RelayRules:
    """What a relay does for others."""

    reserved_for: float = 3600.0  # seconds
    max_reservations: int = 1024
    max_circuits: int = 256
    max_circuits_per_peer: int = 16  # as the one that dials
    idle: float = 120.0  # seconds without a byte in one direction; the ends ping each other more often


class Relay:
    """Answers HOP requests on a host. `carried` counts bytes, `refused` requests by the status of the answer."""

    def __init__(self, host: IHost, rules: RelayRules | None = None, tally: Tally | None = None) -> None:
        self._host = host
        self._rules = rules or RelayRules()
        self.tally = tally or Tally()
        self._reserved: OrderedDict[str, float] = OrderedDict()
        self._circuits: Counter[str] = Counter()
        self.carried = 0
        self.refused: Counter[str] = Counter()
        host.set_stream_handler(TProtocol(HOP), self.handle)

    def circuits(self) -> int:
        """How many stand now."""
        return self._circuits.total()

    def reservations(self) -> int:
        """How many nodes may be dialed through this relay now."""
        self._expire()
        return len(self._reserved)

    def metrics(self) -> list[Metric]:
        """What it does for others, for `metrics.prometheus_text`."""
        refused: dict[str, float] = dict(self.refused)
        return [
            single("fl_node_relay_reservations", "gauge", "Nodes that can be dialed here.", self.reservations()),
            single("fl_node_relay_circuits", "gauge", "Circuits that stand now.", self.circuits()),
            single("fl_node_relay_carried_bytes_total", "counter", "Ciphertext between others.", self.carried),
            labelled("fl_node_relay_refused_total", "counter", "What was refused, by status.", "status", refused),
        ]

    async def handle(self, stream: INetStream) -> None:
        """Answers one request; one to connect lasts as long as the circuit."""
        asker = str(stream.muxed_conn.peer_id)
        with trio.fail_after(ANSWER_SECONDS):
            message = await receive(stream, HopMessage)
        if message.type == HopMessage.RESERVE:
            await self._reserve(stream, asker)
        elif message.type == HopMessage.CONNECT:
            await self._connect(stream, asker, str(ID(message.peer.id[:64])))
        else:
            await self._refuse(stream, asker, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: INetStream, asker: str) -> None:
        self._expire()
        if asker not in self._reserved and len(self._reserved) >= self._rules.max_reservations:
            await self._refuse(stream, asker, Status.RESERVATION_REFUSED)
            return
        self._reserved.pop(asker, None)
        self._reserved[asker] = trio.current_time() + self._rules.reserved_for
        await self._answer(stream, Status.OK, Reservation(expire=int(self._rules.reserved_for)))

    async def _connect(self, stream: INetStream, asker: str, target: str) -> None:
        self._expire()
        if target not in self._reserved or not self._host.get_network().get_connections(ID.from_string(target)):
            await self._refuse(stream, asker, Status.NO_RESERVATION)
            return
        if (
            self._circuits[asker] >= self._rules.max_circuits_per_peer
            or self._circuits.total() >= self._rules.max_circuits
        ):
            await self._refuse(stream, asker, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        self._circuits[asker] += 1
        try:
            far = await self._reach(target, asker)
            if far is None:
                await self._refuse(stream, asker, Status.CONNECTION_FAILED)
                return
            await self._answer(stream, Status.OK)
            await self._carry(stream, far)
        finally:
            self._circuits[asker] -= 1
            self._circuits += Counter()  # forgets zeros

    async def _reach(self, target: str, asker: str) -> INetStream | None:
        """A stream on which `target` is ready for `asker`; None if it does not want, or answer."""
        with trio.move_on_after(ANSWER_SECONDS):
            try:
                far = await self._host.new_stream(ID.from_string(target), [TProtocol(STOP)])
                await send(far, StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=encode_peer_id(asker))))
                if (await receive(far, StopMessage)).status == Status.OK:
                    return far
                await far.reset()
            except BaseLibp2pError as error:
                logger.info("relay: %s cannot be reached for %s (%s)", target, asker, type(error).__name__)
        return None

    async def _carry(self, near: INetStream, far: INetStream) -> None:
        """Copies both ways until either side ends, breaks or is idle; then both are over."""
        async with trio.open_nursery() as nursery:

            async def copy(source: INetStream, sink: INetStream) -> None:
                try:
                    while True:
                        with trio.fail_after(self._rules.idle):
                            data = await source.read(PIECE)
                            self.carried += len(data)
                            await sink.write(data)
                except (StreamEOF, BaseLibp2pError, trio.TooSlowError):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(copy, near, far)
            nursery.start_soon(copy, far, near)
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await far.reset()
            await near.reset()

    async def _refuse(self, stream: INetStream, asker: str, status: Status.ValueType) -> None:
        self.refused[Status.Name(status)] += 1
        self.tally.count(CAUSES[status], asker, Status.Name(status))
        await self._answer(stream, status)

    async def _answer(
        self, stream: INetStream, status: Status.ValueType, reservation: Reservation | None = None
    ) -> None:
        with trio.fail_after(ANSWER_SECONDS):
            await send(stream, HopMessage(type=HopMessage.STATUS, status=status, reservation=reservation))

    def _expire(self) -> None:
        now = trio.current_time()
        while self._reserved and next(iter(self._reserved.values())) <= now:
            self._reserved.popitem(last=False)
