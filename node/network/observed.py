"""Which addresses a node names to be dialed at through its NAT, and which of those that others name it will dial.

A relay sees where a NAT has put our connection to it, and says so when it is asked (libp2p's identify). Nothing that it
or a peer says is believed to be more than a place to send a SYN to.
"""

import ipaddress
from collections.abc import Iterable, Sequence

import trio
from libp2p.abc import IHost
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.errors import NetworkError
from node.network.addresses import CIRCUIT, MAX_ADDRESS_LENGTH, host_and_port, parse_address
from node.network.containment import containing
from node.network.delimited import receive

MAX_ADDRESSES = 20  # in one message
IDENTIFY_SECONDS = 10.0


async def ask_observed(host: IHost, peer_id: str) -> list[bytes]:
    """The address at which a connected peer sees us, as it travels; nothing if it does not say."""
    seen: list[bytes] = []
    with trio.move_on_after(IDENTIFY_SECONDS), containing("identify", peer_id):
        stream = await host.new_stream(ID.from_string(peer_id), [TProtocol(IDENTIFY)])
        try:
            seen.append((await receive(stream, Identify)).observed_addr)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.reset()
    return seen


def places(encoded: Iterable[bytes], *, loopback: bool = False) -> list[str]:
    """The first MAX_ADDRESSES of the multiaddrs that can be dialed: TCP ports of one host each; others are left out."""
    found: dict[str, None] = {}
    for each in encoded:
        if len(found) == MAX_ADDRESSES:
            break
        address = _decoded(each)
        if address is not None and _is_place(address, loopback):
            found[address] = None
    return list(found)


def own_places(seen: Sequence[str], own: Sequence[str]) -> list[str]:
    """What to name to a peer: where relays see us, the same host with the port that we listen on, where we listen.

    Many NATs keep ports, so the second kind is right where our connection to the relay did not leave from that port.
    """
    here = [address for address in own if not address.endswith(CIRCUIT)]
    ports = dict.fromkeys(host_and_port(address)[1] for address in here)
    kept = [f"{address.rpartition('/')[0]}/{port}" for address in seen for port in ports]
    return list(dict.fromkeys([*seen, *kept, *here]))[:MAX_ADDRESSES]


def _decoded(encoded: bytes) -> str | None:
    if len(encoded) > MAX_ADDRESS_LENGTH:
        return None
    try:
        return parse_address(str(Multiaddr(encoded)))
    except (NetworkError, MultiaddrError, ValueError, KeyError, IndexError):
        return None


def _is_place(address: str, loopback: bool) -> bool:
    host, port = host_and_port(address)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:  # a name: whoever resolves it would be told where to dial by yet another party
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    ip = mapped or ip
    if ip.is_loopback:
        return loopback and port > 0
    nobody = ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip == ipaddress.ip_address("255.255.255.255")
    return port > 0 and not nobody
