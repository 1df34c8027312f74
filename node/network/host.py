"""A py-libp2p host that is fit to be exposed: TCP, Noise and Yamux only, contained, bounded, metered.

Knows no session. docs/decisions.md says what was measured against the library's defaults.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from libp2p import create_identity_from_seed, new_host
from libp2p.abc import IHost
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from multiaddr import Multiaddr

from node.causes import Tally
from node.errors import NetworkError, PeerError
from node.network import hardening
from node.network.addresses import CIRCUIT, concrete
from node.network.circuit import dial_through
from node.network.containment import containing
from node.network.door import Door, DoorRules
from node.network.hardening import Admission
from node.network.identity import Identity
from node.network.metering import TrafficLedger
from node.network.noise_session import NoiseTransport
from node.network.transport import MeteredTCP, bind
from node.network.yamux import BufferBudget, YamuxLimits

CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class HostLimits:
    """What all peers together may cost us."""

    max_connections: int = 256
    max_connections_per_peer: int = 4
    door: DoorRules = field(default_factory=DoorRules)
    handshake_timeout: float = 10.0
    max_buffered: int = 256 << 20  # bytes received and not yet read, over all connections
    yamux: YamuxLimits = field(default_factory=YamuxLimits)


@dataclass(frozen=True)
class RunningHost:
    """A host that listens; `addresses` are where others can reach it, without /p2p/."""

    host: IHost
    addresses: tuple[str, ...]
    traffic: TrafficLedger
    tally: Tally
    transport: MeteredTCP
    door: Door


@asynccontextmanager
async def run_host(
    identity: Identity,
    listen: Sequence[str],
    admission: Admission,
    limits: HostLimits | None = None,
    from_listener: Collection[str] = (),
) -> AsyncIterator[RunningHost]:
    """A host that listens on `listen` (TCP multiaddrs) until the block ends.

    `admission` says whether one more connection of a peer id is welcome. What is in `from_listener` is dialed from the
    port that we listen on, which then is not ours alone. Raises NetworkError for an address that cannot be listened on.
    """
    limits = limits or HostLimits()
    hardening.give_back_the_log()
    bound = await bind(listen, shared=bool(from_listener))
    announced = [address for each in bound for address in concrete(each.address, each.port)]
    traffic = TrafficLedger()
    tally = Tally()
    door = Door(limits.door, tally)
    transport = MeteredTCP(traffic, bound, door, from_listener)
    host = _build(identity, announced, transport, limits)
    budget = BufferBudget(limits.max_buffered, tally)
    swarm = host.get_network()
    swarm.upgrader.muxer_multistream = hardening.OwnMuxer(limits.yamux, budget)
    _harden(host, admission, tally)
    async with host.run([Multiaddr(each.address) for each in bound]):
        if len(host.get_network().listeners) != len(bound):
            raise NetworkError(f"cannot listen on all of {', '.join(listen)}; choose other --listen addresses")
        try:
            yield RunningHost(host, tuple(announced), traffic, tally, transport, door)
        finally:
            await _close_all(host)


async def _close_all(host: IHost) -> None:
    """Closes the connections side by side; py-libp2p would take 0.1 s for each, one after the other."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
        async with trio.open_nursery() as nursery:
            for connection in host.get_network().get_connections():
                nursery.start_soon(connection.close)


def _build(
    identity: Identity,
    announced: Sequence[str],
    transport: MeteredTCP,
    limits: HostLimits,
) -> IHost:
    keys = create_identity_from_seed(identity.private_key)
    return new_host(
        key_pair=keys,
        sec_opt={NOISE: NoiseTransport(keys, noise_privkey=create_new_key_pair().private_key)},
        transports=[transport],
        announce_addrs=[Multiaddr(address) for address in announced],
        resource_manager=_resources(limits),
        connection_config=_connections(limits),
        disable_identify_address_discovery=True,
    )


def _resources(limits: HostLimits) -> ResourceManager:
    total = limits.max_connections
    return ResourceManager(
        limits=ResourceLimits(max_connections=2 * total, max_streams=total * limits.yamux.max_streams),
        connection_limits=ConnectionLimits(
            max_pending_inbound=2 * limits.door.max_pending,
            max_pending_outbound=limits.door.max_pending,
            max_established_inbound=total,
            max_established_outbound=total,
            max_established_per_peer=limits.max_connections_per_peer,
            max_established_total=total,
        ),
        enable_graceful_degradation=False,
        enable_circuit_breaker=False,
    )


def _connections(limits: HostLimits) -> ConnectionConfig:
    return ConnectionConfig(
        max_connections=limits.max_connections,
        max_connections_per_peer=limits.max_connections_per_peer,
        min_connections=0,
        low_watermark=0,
        high_watermark=limits.max_connections,
        inbound_upgrade_timeout=limits.handshake_timeout,
        outbound_upgrade_timeout=limits.handshake_timeout,
        auto_connect_interval=3600,
    )


def _harden(host: IHost, admission: Admission, tally: Tally) -> None:
    swarm = host.get_network()
    hardening.contain_stream_handlers(host, tally)
    hardening.release_inbound_slots(swarm)
    hardening.gate_connections(swarm, admission)
    hardening.silence_auto_connector(swarm)
    hardening.silence_identify(host)
    hardening.forget_peers_that_leave(swarm)


async def dial(host: IHost, peer_id: str, address: str, timeout: float) -> None:
    """Connects to one address of a peer within `timeout` seconds, and proves that it is that peer.

    `host.connect` would wait at least 250 ms, try one address, and refuse a peer that failed for 60 s.
    Raises PeerError.
    """
    with trio.move_on_after(timeout) as deadline, containing("dial", peer_id) as outcome:
        if address.endswith(CIRCUIT):
            await dial_through(host, peer_id, address, dial)
        else:
            await host.get_network().dial_addr(Multiaddr(address), ID.from_string(peer_id))
    if deadline.cancelled_caught:
        raise PeerError(f"no answer from {address}/p2p/{peer_id} in {timeout:.0f} s; retrying")
    if outcome.error is not None:
        reason = _innermost(outcome.error)
        raise PeerError(f"cannot reach {address}/p2p/{peer_id}: {reason}; retrying") from outcome.error


def _innermost(error: BaseException) -> str:
    while isinstance(error, SwarmException) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
