"""One test for each fault of py-libp2p 0.8.1 that node/network works around; see hardening.py."""

import logging
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import create_identity_from_seed, new_host
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr

from node.errors import NetworkError, PeerError
from node.network.host import HostLimits, RunningHost, dial, run_host
from node.network.yamux import LARGE_FRAME, NOISE_SIZED_FRAME
from tests.network.members import LOOPBACK, identity, until

ECHO = TProtocol("/test/echo")
ALICE, BOB = identity("alice"), identity("bob")

pytestmark = pytest.mark.real


def welcome(peer_id: str) -> bool:
    return True


@asynccontextmanager
async def hardened(who=ALICE, admission=welcome, limits=None):
    async with run_host(who, [LOOPBACK], admission, limits) as running:
        running.host.set_stream_handler(ECHO, echo)
        yield running


async def echo(stream: INetStream) -> None:
    while True:
        await stream.write(await stream.read(1 << 20))


@asynccontextmanager
async def stock(name="stock", **options):
    """A host as py-libp2p makes it: what another implementation would look like."""
    keys = create_identity_from_seed(identity(name).private_key)
    config = ConnectionConfig(min_connections=0, low_watermark=0)
    host = new_host(key_pair=keys, connection_config=config, **options)
    async with host.run([Multiaddr(LOOPBACK)]):
        try:
            yield host
        finally:
            await host.close()


def full(running: RunningHost, who=ALICE) -> Multiaddr:
    return Multiaddr(f"{running.addresses[0]}/p2p/{who.peer_id}")


async def echoes(host, peer_id: str, message: bytes = b"hello") -> bool:
    with trio.fail_after(5):
        stream = await host.new_stream(ID.from_string(peer_id), [ECHO])
        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, message)
            while len(received) < len(message):
                received += await stream.read(len(message))
        await stream.reset()
    return received == message


async def test_two_of_ours_talk_in_large_frames():
    async with hardened() as alice, hardened(BOB) as bob:
        await dial(bob.host, ALICE.peer_id, alice.addresses[0], 5)
        assert await echoes(bob.host, ALICE.peer_id, bytes(3 << 20))
        (connection,) = bob.host.get_network().get_connections(ID.from_string(ALICE.peer_id))
        assert connection.muxed_conn.frame_size == LARGE_FRAME


async def test_another_implementation_is_served_in_frames_that_fit_a_noise_message():
    async with hardened() as alice, stock() as other:
        await other.connect(info_from_p2p_addr(full(alice)))
        assert await echoes(other, ALICE.peer_id, bytes(1 << 20))
        (connection,) = alice.host.get_network().get_connections(other.get_id())
        assert connection.muxed_conn.frame_size == NOISE_SIZED_FRAME


async def test_another_implementation_is_dialed():
    async with hardened() as alice, stock() as other:
        other.set_stream_handler(ECHO, echo)
        address = other.get_addrs()[0]
        await dial(alice.host, str(other.get_id()), str(address).partition("/p2p/")[0], 5)
        assert await echoes(alice.host, str(other.get_id()), bytes(1 << 20))


@pytest.mark.parametrize("protocol", [PING, IDENTIFY])
async def test_ping_and_identify_are_answered(protocol):
    async with hardened() as alice, stock() as other:
        await other.connect(info_from_p2p_addr(full(alice)))
        stream = await other.new_stream(ID.from_string(ALICE.peer_id), [protocol])
        await stream.write(bytes(32))
        with trio.fail_after(5):
            assert await stream.read(32)


async def test_nobody_can_claim_a_peer_id_over_plaintext():
    keys = create_identity_from_seed(BOB.private_key)
    plain = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys)}
    async with hardened() as alice, stock("bob", sec_opt=plain) as other:
        with pytest.raises(SwarmException):
            await other.get_network().dial_addr(full(alice), ID.from_string(ALICE.peer_id))


async def test_a_peer_that_is_not_the_one_dialed_is_refused():
    async with hardened() as alice, hardened(BOB) as bob:
        with pytest.raises(PeerError, match="retrying"):
            await dial(bob.host, identity("carol").peer_id, alice.addresses[0], 5)


async def _raise(stream: INetStream) -> None:
    await stream.read(1)
    raise KeyError("a fault in a handler")


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n", id="a protocol name that is not text"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", id="a length that never ends"),
        pytest.param(b"\x13/multistream/1.0.0\n\x01\n", id="an empty protocol name"),
        pytest.param(b"\x13/multistream/1.0.0\n\x0b/test/bad\n\x00x", id="a handler that raises"),
    ],
)
async def test_no_stream_ends_the_host(opening):
    async with hardened() as alice, hardened(BOB) as bob:
        alice.host.set_stream_handler(TProtocol("/test/bad"), _raise)
        await dial(bob.host, ALICE.peer_id, alice.addresses[0], 5)
        for _ in range(3):
            (connection, *_) = bob.host.get_network().get_connections(ID.from_string(ALICE.peer_id))
            stream = await connection.muxed_conn.open_stream()
            await stream.write(opening)
            await stream.close()
        await until(lambda: len(connection.muxed_conn.streams) == 0)
        assert await echoes(bob.host, ALICE.peer_id)


async def test_garbage_instead_of_a_handshake_leaves_nothing_behind():
    async with hardened() as alice, hardened(BOB) as bob:
        port = int(alice.addresses[0].rpartition("/")[2])
        for content in (b"", b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 100):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(content)
            await stream.aclose()
        swarm = alice.host.get_network()
        await until(lambda: swarm._inbound_limiter.borrowed_tokens == 0)
        await dial(bob.host, ALICE.peer_id, alice.addresses[0], 5)
        assert await echoes(bob.host, ALICE.peer_id)


async def test_a_handshake_that_stalls_is_given_up():
    async with hardened(limits=HostLimits(handshake_timeout=0.2)) as alice:
        port = int(alice.addresses[0].rpartition("/")[2])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(5):
            while await stream.receive_some():
                pass
        await stream.aclose()


async def test_connections_that_ended_make_room_for_others():
    limits = HostLimits(max_connections=4)
    async with hardened(limits=limits) as alice:
        swarm = alice.host.get_network()
        for n in range(12):
            async with hardened(identity(f"visitor {n}")) as visitor:
                await dial(visitor.host, ALICE.peer_id, alice.addresses[0], 5)
                assert await echoes(visitor.host, ALICE.peer_id)
            await until(lambda: not swarm.connections)
            assert swarm._inbound_limiter.borrowed_tokens == 0
        assert not [each for each in swarm.peerstore.peer_ids() if str(each) != ALICE.peer_id]


async def test_the_gate_is_asked_about_the_proven_peer_id_in_both_directions():
    asked = []

    def only_bob(peer_id: str) -> bool:
        asked.append(peer_id)
        return peer_id == BOB.peer_id

    async with hardened(admission=only_bob) as alice, hardened(BOB) as bob, hardened(identity("carol")) as carol:
        await dial(bob.host, ALICE.peer_id, alice.addresses[0], 5)
        assert await echoes(bob.host, ALICE.peer_id)
        with pytest.raises((PeerError, SwarmException)):  # noqa: PT012  (either of them may notice)
            await dial(carol.host, ALICE.peer_id, alice.addresses[0], 5)
            await echoes(carol.host, ALICE.peer_id)
        with pytest.raises(PeerError):
            await dial(alice.host, identity("carol").peer_id, carol.addresses[0], 5)
        assert set(asked) == {BOB.peer_id, identity("carol").peer_id}
        assert [str(each) for each in alice.host.get_network().connections] == [BOB.peer_id]


async def test_nothing_is_dialed_and_nothing_identified_behind_our_back():
    async with hardened() as alice, hardened(BOB) as bob:
        store = alice.host.get_peerstore()
        store.add_addrs(ID.from_string(BOB.peer_id), [Multiaddr(bob.addresses[0])], 1000)
        await alice.host.get_network().auto_connector.maybe_connect()
        assert not alice.host.get_network().connections
        await dial(alice.host, BOB.peer_id, bob.addresses[0], 5)
        assert ID_PUSH not in bob.host.get_mux().get_protocols()
        assert not alice.host._identify_tasks
        assert not bob.host._identify_tasks


async def test_a_port_in_use_is_one_clear_error_naming_the_address():
    async with hardened() as alice:
        address = alice.addresses[0]
        with pytest.raises(NetworkError, match="choose another --listen address") as caught:
            async with run_host(BOB, [address], welcome):
                pass
        assert address in str(caught.value)


async def test_an_address_of_another_machine_cannot_be_listened_on():
    with pytest.raises(NetworkError, match=r"cannot listen on /ip4/192\.0\.2\.77/tcp/0"):
        async with run_host(BOB, ["/ip4/192.0.2.77/tcp/0"], welcome):
            pass


async def test_a_wildcard_is_not_what_others_are_told():
    async with run_host(ALICE, ["/ip4/0.0.0.0/tcp/0"], welcome) as running:
        assert running.addresses
        assert not any("0.0.0.0" in each for each in running.addresses)
        assert not any("0.0.0.0" in str(each) for each in running.host.get_addrs())


async def test_both_ends_count_the_same_bytes_and_a_proxy_between_them_too(nursery):
    async with hardened() as alice, hardened(BOB) as bob:
        port = int(alice.addresses[0].rpartition("/")[2])
        counted = {"to": 0, "from": 0}
        between = await _serve(nursery, _proxy(port, counted))
        await dial(bob.host, ALICE.peer_id, f"/ip4/127.0.0.1/tcp/{between}", 5)
        assert await echoes(bob.host, ALICE.peer_id, bytes(2_345_678))

        def all_agree() -> bool:
            ours, theirs = bob.traffic.traffic()[ALICE.peer_id], alice.traffic.traffic()[BOB.peer_id]
            to, back = (ours.bytes_out, theirs.bytes_in), (ours.bytes_in, theirs.bytes_out)
            return to == (counted["to"],) * 2 and back == (counted["from"],) * 2

        await until(all_agree)
        assert counted["to"] > 2_345_678
        nursery.cancel_scope.cancel()


def _proxy(port: int, counted: dict[str, int]):
    async def handle(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", port)

        async def pump(source, target, name):
            try:
                async for data in source:
                    counted[name] += len(data)
                    await target.send_all(data)
                await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, server, "to")
            nursery.start_soon(pump, server, client, "from")

    return handle


async def _serve(nursery, handle) -> int:
    listeners = await nursery.start(lambda **kw: trio.serve_tcp(handle, 0, host="127.0.0.1", **kw))
    return listeners[0].socket.getsockname()[1]


@pytest.mark.parametrize(("level", "heard"), [(logging.DEBUG, True), (logging.INFO, False)])
async def test_the_library_s_log_is_part_of_ours(caplog, capsys, level, heard):
    log = logging.getLogger("libp2p")
    log.propagate = False  # as after its import
    log.setLevel(logging.WARNING)
    with caplog.at_level(level):
        async with hardened():
            logging.getLogger("libp2p.host").warning("said by the library")
    assert ("said by the library" in caplog.messages) == heard
    assert "said" not in capsys.readouterr().err
