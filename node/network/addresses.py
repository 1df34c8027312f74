"""Multiaddrs as this node reads and writes them: TCP over IP or DNS, with or without a peer id.

Knows no network; asks the machine only for the addresses of its interfaces.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import ifaddr
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.errors import IdentityError, NetworkError
from node.network.identity import public_key_of

MAX_ADDRESS_LENGTH = 256
HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
EXAMPLE = "/ip4/192.0.2.1/tcp/4001"
CIRCUIT = "/p2p-circuit"  # behind a relay's address and peer id: the peer is dialed through it


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A peer and one address to dial it at."""

    peer_id: str
    address: str  # multiaddr without /p2p/

    def __str__(self) -> str:
        return f"{self.address}/p2p/{self.peer_id}"


def parse_peer_address(text: str) -> PeerAddress:
    """The peer and address of a multiaddr such as `/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…`.

    Raises NetworkError if it is malformed, not TCP, or names no peer.
    """
    address, separator, peer_id = text.rpartition("/p2p/")
    if not separator:
        raise NetworkError(f"{_shown(text)} names no peer; append /p2p/ and its peer id, as in {EXAMPLE}/p2p/12D3KooW…")
    try:
        public_key_of(peer_id)
    except IdentityError as error:
        raise NetworkError(f"in {_shown(text)}: {error}") from error
    return PeerAddress(peer_id, parse_dialable(address))


def parse_dialable(text: str) -> str:
    """The multiaddr, canonical: a TCP address, or one of a relay, `…/p2p/RELAY/p2p-circuit`. Raises NetworkError."""
    if not text.endswith(CIRCUIT):
        return parse_address(text)
    relay = parse_peer_address(text.removesuffix(CIRCUIT))
    if relay.address.endswith(CIRCUIT):
        raise NetworkError(f"{_shown(text)} leads through two relays; name one")
    return f"{relay}{CIRCUIT}"


def parse_address(text: str) -> str:
    """The multiaddr, canonical, if it is `/ip4|ip6|dns|dns4|dns6/…/tcp/…` and nothing more.

    Raises NetworkError otherwise.
    """
    if len(text) > MAX_ADDRESS_LENGTH:
        raise NetworkError(f"{_shown(text)} is too long for a multiaddr; write it as {EXAMPLE}")
    try:
        parsed = Multiaddr(text)
        names = [protocol.name for protocol in parsed.protocols()]
    except (MultiaddrError, ValueError, TypeError, KeyError, UnicodeError) as error:
        raise NetworkError(f"{_shown(text)} is no multiaddr; write it as {EXAMPLE}") from error
    if len(names) != 2 or names[0] not in HOSTS or names[1] != "tcp":
        raise NetworkError(f"{_shown(text)} is no TCP address; write it as {EXAMPLE}")
    return str(parsed)


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of an address that `parse_address` accepted."""
    _, _, host, _, port = address.split("/")
    return host, int(port)


def hosts_of(addresses: Iterable[str]) -> list[str]:
    """The IP addresses in those of `addresses` that name one and are no relay's."""
    split = (each.split("/") for each in addresses)
    return [parts[2] for parts in split if len(parts) == 5 and parts[1] in ("ip4", "ip6")]


def concrete(address: str, port: int) -> list[str]:
    """The addresses at which `address` can be reached from outside, with the port that was bound.

    A wildcard (0.0.0.0 or ::) stands for every interface; loopback is named only if there is nothing else.
    """
    host, _ = host_and_port(address)
    if not ipaddress.ip_address(host).is_unspecified:
        return [_tcp(host, port)]
    found = [ip for ip in interface_addresses() if _is_version(ip, 6 if ":" in host else 4)]
    outward = [ip for ip in found if not ipaddress.ip_address(ip).is_loopback]
    return [_tcp(ip, port) for ip in outward or found]


def interface_addresses() -> list[str]:
    """The IP addresses of this machine, without link-local ones."""
    found = (_text(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return [ip for ip in found if not ipaddress.ip_address(ip).is_link_local]


def known_addresses(texts: Iterable[str], limit: int) -> list[str]:
    """The first `limit` of `texts` that are addresses of ours to dial; the others come from outside and are dropped."""
    kept: list[str] = []
    for text in texts:
        if len(kept) == limit:
            break
        try:
            address = parse_dialable(_without_peer(text))
        except NetworkError:
            continue
        if address not in kept:
            kept.append(address)
    return kept


def _without_peer(text: str) -> str:
    """A multiaddr without the /p2p/ at its end, if it has one."""
    relay, circuit, _ = text.rpartition(CIRCUIT)
    return relay + circuit if circuit else text.partition("/p2p/")[0]


def _tcp(host: str, port: int) -> str:
    return f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}"


def _text(ip: str | tuple[str, int, int]) -> str:
    return ip if isinstance(ip, str) else ip[0]


def _is_version(ip: str, version: int) -> bool:
    return ipaddress.ip_address(ip).version == version


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_ADDRESS_LENGTH else text[:MAX_ADDRESS_LENGTH] + "…")
