"""Members that find each other without being told: mDNS on the local network, one service name per session.

zeroconf runs in threads of its own; what it finds comes over in bounded batches. Knows nothing of dialing.
"""

import logging
import socket
from collections.abc import Callable, Sequence

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import EventLoopBlocked, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from node.errors import NetworkError
from node.network.addresses import PeerAddress, host_and_port, parse_peer_address

logger = logging.getLogger(__name__)

MAX_WAITING = 64  # finds that were not collected yet
MAX_RECORDS = 16  # addresses taken from one service
LOOK_UP_MS = 3000
LOOK_UPS = 3
MASK = (1 << 48) - 1  # a service name has at most 15 characters (RFC 6763, section 7)
Found = Callable[[str, list[str]], None]


def service_type(session_id: int) -> str:
    """The mDNS service of a session: members of others never meet."""
    return f"_fl{session_id & MASK:012x}._udp.local."


class _Listener(ServiceListener):
    """Called in zeroconf's thread."""

    def __init__(self, found: Callable[[ServiceInfo], None]) -> None:
        self._found = found

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        for _ in range(LOOK_UPS):
            try:
                info = zc.get_service_info(type_, name, LOOK_UP_MS)
            except EventLoopBlocked:
                continue  # a busy machine; an exception would end zeroconf's thread
            except AssertionError:
                return  # zeroconf was closed meanwhile, which it asserts against
            if info is not None:
                self._found(info)
                return

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Nothing: whether a member is there is found out by dialing."""


async def run_mdns(session_id: int, peer_id: str, addresses: Sequence[str], found: Found) -> None:
    """Announces `addresses` and calls `found` with peer id and addresses of each other member, until cancelled.

    Without multicast on this machine it logs so and returns: other ways of finding peers go on.
    """
    send, receive = trio.open_memory_channel[ServiceInfo](MAX_WAITING)
    token = trio.lowlevel.current_trio_token()

    def hand_over(info: ServiceInfo) -> None:
        def put() -> None:
            try:
                send.send_nowait(info)
            except (trio.WouldBlock, trio.BrokenResourceError):
                logger.info("mDNS: more peers than can be looked at; some are left out")

        try:
            token.run_sync_soon(put)
        except trio.RunFinishedError:
            return

    try:
        service = await trio.to_thread.run_sync(_open, session_id, peer_id, addresses, _Listener(hand_over))
    except (OSError, ZeroconfError) as error:
        logger.warning("mDNS does not work here (%s); name peers with --peers", error)
        return
    try:
        async for info in receive:
            for each in _read(info):
                if each.peer_id != peer_id:
                    found(each.peer_id, [each.address])
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await trio.to_thread.run_sync(_close, service)


def _open(session_id: int, peer_id: str, addresses: Sequence[str], listener: ServiceListener) -> Zeroconf:
    hosts = [host_and_port(address)[0] for address in addresses]
    interfaces = [host for host in hosts if ":" not in host] or ["127.0.0.1"]
    service = Zeroconf(interfaces=list(dict.fromkeys(interfaces)))
    kind = service_type(session_id)
    name = peer_id[-16:]
    info = ServiceInfo(
        type_=kind,
        name=f"{name}.{kind}",
        server=f"{name}.local.",
        port=host_and_port(addresses[0])[1],
        addresses=[socket.inet_aton(host) for host in interfaces],
        properties={f"dnsaddr{n}": f"{address}/p2p/{peer_id}" for n, address in enumerate(addresses[:MAX_RECORDS])},
    )
    service.register_service(info, cooperating_responders=True)
    ServiceBrowser(service, kind, listener)
    return service


def _close(service: Zeroconf) -> None:
    service.unregister_all_services()
    service.close()


def _read(info: ServiceInfo) -> list[PeerAddress]:
    """The addresses in a service's records; anything else that a stranger put there is left out."""
    found = []
    for key, value in list(info.properties.items())[:MAX_RECORDS]:
        if not key.startswith(b"dnsaddr") or value is None:
            continue
        try:
            found.append(parse_peer_address(value.decode("ascii", "replace")))
        except NetworkError as error:
            logger.info("mDNS: %s", error)
    return found
