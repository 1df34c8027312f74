"""The network of one session, running: everything in this room put together for as long as a block lasts.

Knows no tensors, no ledger, and not what a round is for: who is a member, what payloads there are and what was
announced are functions of the caller's.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from node.messages import Announcement
from node.network.addresses import parse_peer_address
from node.network.asking import Asker
from node.network.circuit import CircuitDoor, circuit_address, keep_reservation
from node.network.discovery import run_mdns
from node.network.host import run_host
from node.network.identity import Identity
from node.network.network import Network
from node.network.parts import Caller, Parts, assemble
from node.network.serving import PayloadSource
from node.network.settings import NetworkSettings
from node.network.upgrading import Surroundings, Upgrader

__all__ = ["Network", "NetworkSettings", "open_network"]


@asynccontextmanager
async def open_network(
    identity: Identity,
    settings: NetworkSettings,
    gate: Callable[[str], bool],
    payloads: PayloadSource,
    own_announcements: Callable[[int], Sequence[Announcement]],
) -> AsyncIterator[Network]:
    """A running `Network` until the block ends.

    `gate` says whether a peer id is a member; `own_announcements` gives ours from a round on. They and `payloads` are
    called on the event loop and must not take long; an exception in one of them ends the network and is raised here.
    Raises NetworkError for an address that is malformed or cannot be listened on.
    """
    trackers = [parse_peer_address(text) for text in settings.trackers]
    relays = [parse_peer_address(text) for text in settings.relays]
    named = [*map(parse_peer_address, settings.peers), *trackers, *relays]
    admission = _Admission()
    try:
        async with run_host(identity, settings.listen, admission, settings.host, _from_listener(settings)) as running:
            running = replace(running, addresses=(*running.addresses, *map(circuit_address, relays)))
            parts = assemble(identity, settings, running, Caller(gate, payloads, own_announcements))
            admission.ask = parts.connector.admits
            for each in named:
                parts.peers.pin(each.peer_id, each.address)
            async with parts.gossip.run(settings.session_id), trio.open_nursery() as nursery:
                asker = Asker(parts)
                upgrader = _upgrader(parts, [each.peer_id for each in relays])
                network = Network(parts, asker, upgrader)
                _start(nursery, parts, asker, network)
                for each in trackers:
                    nursery.start_soon(asker.ask_tracker, each.peer_id)
                if relays:
                    CircuitDoor(running.host, relays)
                for each in relays:
                    nursery.start_soon(keep_reservation, running.host, each, parts.connector.connect)
                if upgrader is not None:
                    nursery.start_soon(upgrader.run)
                yield network
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only_leaf(group) from group.__cause__


def _start(nursery: trio.Nursery, parts: Parts, asker: Asker, network: Network) -> None:
    nursery.start_soon(parts.faults.wait)
    nursery.start_soon(parts.connector.run, asker.greet, parts.faults)
    nursery.start_soon(asker.ask_around)
    nursery.start_soon(parts.bitswap.run)
    nursery.start_soon(parts.lateness.run)
    if parts.settings.dht:
        nursery.start_soon(asker.ask_directory)
    if parts.settings.mdns:
        session, addresses = parts.settings.session_id, parts.running.addresses
        nursery.start_soon(run_mdns, session, parts.identity.peer_id, addresses, network.hint)


def _from_listener(settings: NetworkSettings) -> list[str]:
    """The relays' addresses, if holes are to be punched: a NAT's mapping for a relay then is that of the listener."""
    return [] if settings.punching is None else [parse_peer_address(text).address for text in settings.relays]


def _upgrader(parts: Parts, relays: Sequence[str]) -> Upgrader | None:
    rules = parts.settings.punching
    if rules is None or not relays:
        return None
    around = Surroundings(parts.gate, relays, parts.peers.addresses, parts.client.leave)
    return Upgrader(parts.running, around, rules)


class _Admission:
    """Lets nobody in until the connector is there to be asked."""

    ask: Callable[[str], bool] | None = None

    def __call__(self, peer_id: str) -> bool:
        return self.ask is not None and self.ask(peer_id)


def _only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in nested groups, which is what callers can catch; the group itself if there are several."""
    leaves = {id(leaf): leaf for leaf in _leaves(group)}
    return leaves.popitem()[1] if len(leaves) == 1 else group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
