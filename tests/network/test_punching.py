"""Hole punching: the protocol between hosts on loopback, and members behind NATs in network namespaces."""

import os
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p.abc import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.dcutr import DCUtRProtocol
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from node.causes import Cause
from node.errors import NetworkError, PeerError
from node.network.addresses import parse_peer_address
from node.network.circuit import CircuitDoor, keep_reservation
from node.network.delimited import encode_addresses, receive, send
from node.network.host import dial, run_host
from node.network.meeting import PunchRules
from node.network.observed import MAX_ADDRESSES, ask_observed, own_places, places
from node.network.punching import DCUTR, MAX_MESSAGE, Puncher
from node.network.relaying import Relay
from node.network.transport import bind
from tests.network.behind_nats import four_namespaces
from tests.network.members import LOOPBACK, Shelf, identity, member, until

ROOT = Path(__file__).parents[2]
RELAY, ALICE, BOB = identity("relay"), identity("alice"), identity("bob")
RULES = PunchRules(answer=2.0, dial=1.0, handshake=2.0, pause=0.1, look=0.05, grace=0.3, loopback=True)
MEMBERS = {ALICE.peer_id, BOB.peer_id}.__contains__
CONNECT, SYNC = HolePunch.CONNECT, HolePunch.SYNC
NOWHERE = "/ip4/127.0.0.1/tcp/9"


# Addresses


def encoded(*texts):
    return [Multiaddr(text).to_bytes() for text in texts]


def test_only_tcp_ports_of_single_hosts_are_dialed():
    good = ["/ip4/198.51.100.7/tcp/4001", "/ip4/192.168.1.7/tcp/1", "/ip6/2001:db8::7/tcp/4001"]
    bad = encoded(
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip6/::ffff:127.0.0.1/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/224.0.0.1/tcp/4001",
        "/ip4/255.255.255.255/tcp/4001",
        "/ip4/169.254.1.1/tcp/4001",
        "/ip4/198.51.100.7/tcp/0",
        "/ip4/198.51.100.7/udp/4001",
        "/ip4/198.51.100.7/tcp/4001/ws",
        "/dns4/example.org/tcp/4001",
        f"/ip4/198.51.100.7/tcp/4001/p2p/{RELAY.peer_id}/p2p-circuit",
    )
    assert places([*bad, b"", b"\xff" * 40, bytes(300), *encoded(*good), *encoded(*good)]) == good
    assert places(encoded("/ip4/127.0.0.1/tcp/4001"), loopback=True) == ["/ip4/127.0.0.1/tcp/4001"]


def test_no_more_addresses_are_taken_than_a_message_may_name():
    many = [f"/ip4/198.51.100.{number}/tcp/4001" for number in range(1, 60)]
    assert places(encoded(*many)) == many[:MAX_ADDRESSES]


def test_a_node_names_where_it_is_seen_then_the_same_host_with_its_own_port_then_where_it_listens():
    seen, here = "/ip4/198.51.100.1/tcp/20000", "/ip4/10.1.0.2/tcp/4001"
    through = f"/ip4/198.51.100.3/tcp/4010/p2p/{RELAY.peer_id}/p2p-circuit"
    assert own_places([seen], [here, through]) == [seen, "/ip4/198.51.100.1/tcp/4001", here]
    assert own_places([], [here]) == [here]


# Ports that are shared with dials


async def test_a_port_from_which_dials_leave_is_refused_to_others_all_the_same():
    async with run_host(RELAY, [LOOPBACK], MEMBERS) as running:
        for shared in (False, True):
            with pytest.raises(NetworkError, match="choose another --listen address"):
                await bind(running.addresses, shared=shared)
    for first in (False, True):
        (bound,) = await bind([LOOPBACK], shared=first)
        with pytest.raises(NetworkError, match="choose another --listen address"):
            await bind([bound.address], shared=True)
        await bound.listener.aclose()


async def test_a_relay_is_dialed_from_the_listening_port_and_says_where_it_sees_us():
    async with (
        run_host(RELAY, [LOOPBACK], lambda peer_id: True) as relay,
        run_host(ALICE, [LOOPBACK], lambda peer_id: True, None, relay.addresses) as alice,
        run_host(BOB, [LOOPBACK], lambda peer_id: True) as bob,
    ):
        for each in (alice, bob):
            await dial(each.host, RELAY.peer_id, relay.addresses[0], 5)
        assert places(await ask_observed(alice.host, RELAY.peer_id), loopback=True) == list(alice.addresses)
        assert places(await ask_observed(bob.host, RELAY.peer_id), loopback=True) != list(bob.addresses)
        assert await ask_observed(alice.host, BOB.peer_id) == []  # not connected: no answer, and no exception


async def test_a_relay_that_cannot_be_dialed_from_the_listening_port_is_dialed_from_another(monkeypatch):
    async def in_use(*_):
        raise OSError("cannot assign requested address")

    monkeypatch.setattr("node.network.transport.connect_from", in_use)
    async with (
        run_host(RELAY, [LOOPBACK], lambda peer_id: True) as relay,
        run_host(ALICE, [LOOPBACK], lambda peer_id: True, None, relay.addresses) as alice,
    ):
        await dial(alice.host, RELAY.peer_id, relay.addresses[0], 5)
        assert alice.host.get_network().get_connections(ID.from_string(RELAY.peer_id))


# The protocol, between alice, who was dialed through a relay, and bob, who dialed her


@asynccontextmanager
async def relayed():
    """Hosts of alice and bob that a relay connects."""
    async with (
        run_host(RELAY, [LOOPBACK], lambda peer_id: True) as middle,
        run_host(ALICE, [LOOPBACK], lambda peer_id: True, None, middle.addresses) as alice,
        run_host(BOB, [LOOPBACK], lambda peer_id: True, None, middle.addresses) as bob,
        trio.open_nursery() as nursery,
    ):
        place = (RELAY.peer_id, middle.addresses[0])
        serving = Relay(middle.host)
        await dial(alice.host, *place, 5)
        at = f"{place[1]}/p2p/{place[0]}"
        CircuitDoor(alice.host, [parse_peer_address(at)])
        nursery.start_soon(keep_reservation, alice.host, parse_peer_address(at), nothing)
        await until(lambda: serving.reservations() == 1)
        await dial(bob.host, ALICE.peer_id, f"{at}/p2p-circuit", 10)
        await until(lambda: bool(alice.host.get_network().get_connections(ID.from_string(BOB.peer_id))))
        yield alice, bob
        nursery.cancel_scope.cancel()


async def nothing(_):
    await trio.lowlevel.checkpoint()


def puncher(running, gate=MEMBERS, rules=RULES, own=None):
    return Puncher(running, gate, own or (lambda: running.addresses), rules)


async def ask(host, message=None, to=ALICE, data=b""):
    """A stream on which something was said to a puncher."""
    stream = await host.new_stream(ID.from_string(to.peer_id), [DCUTR])
    if message is not None:
        await send(stream, message)
    if data:
        await stream.write(data)
    return stream


async def is_refused(stream):
    with trio.fail_after(10), pytest.raises(BaseLibp2pError):
        await receive(stream, HolePunch)


@pytest.mark.real
async def test_two_who_dial_each_other_at_once_become_direct_and_keep_the_relayed_connection():
    async with relayed() as (alice, bob):
        at_alice, at_bob = puncher(alice), puncher(bob)
        assert not at_alice.meeting.is_direct(BOB.peer_id)
        assert await at_alice.attempt(BOB.peer_id)
        await until(lambda: at_bob.meeting.is_direct(ALICE.peer_id))
        await until(lambda: at_bob.outcomes == {"direct": 1})
        assert at_alice.outcomes == {"direct": 1}
        assert at_alice.meeting.connections(BOB.peer_id, ConnectionType.RELAYED)
        stream = await alice.host.new_stream(ID.from_string(BOB.peer_id), ["/ipfs/id/1.0.0"])
        assert stream.muxed_conn.get_connection_type() == ConnectionType.DIRECT  # new streams take the direct one


@pytest.mark.real
async def test_a_dial_that_is_at_the_listener_before_the_other_side_dials_is_met_all_the_same(monkeypatch):
    async with relayed() as (alice, bob):

        async def too_late(address):
            await trio.sleep_forever()

        monkeypatch.setattr(bob.transport, "dial_from_listener", too_late)
        at_alice, at_bob = puncher(alice), puncher(bob)
        assert await at_alice.attempt(BOB.peer_id)
        await until(lambda: at_bob.meeting.is_direct(ALICE.peer_id))


@pytest.mark.real
async def test_the_dcutr_of_stock_py_libp2p_is_understood_from_both_sides():
    async with relayed() as (alice, bob):
        at_alice = puncher(alice)
        async with background_trio_service(DCUtRProtocol(bob.host)):
            assert await at_alice.attempt(BOB.peer_id)
    async with relayed() as (alice, bob):
        at_bob = puncher(bob)
        stock = DCUtRProtocol(alice.host)
        async with background_trio_service(stock):  # it begins by itself
            await until(lambda: at_bob.outcomes["direct"] == 1, 20)


@pytest.mark.real
async def test_whoever_cannot_be_met_stays_on_the_relay():
    async with relayed() as (alice, bob):
        at_alice, at_bob = (puncher(each, own=lambda: [NOWHERE]) for each in (alice, bob))
        assert not await at_alice.attempt(BOB.peer_id)
        await until(lambda: at_bob.outcomes == {"failed": 1})
        assert at_alice.outcomes == {"failed": 1}
        assert at_alice.meeting.connections(BOB.peer_id, ConnectionType.RELAYED)


@pytest.mark.real
async def test_garbage_oversized_messages_and_the_wrong_order_are_refused_and_counted():
    async with relayed() as (alice, bob):
        at_bob = puncher(bob, rules=PunchRules(tries=9, answer=2.0, dial=0.2, loopback=True))
        connect = HolePunch(type=CONNECT, ObsAddrs=encode_addresses([NOWHERE]))
        oversized = encode_uvarint(MAX_MESSAGE + 1) + bytes(MAX_MESSAGE + 1)
        for count, data in enumerate((b"\xff" * 50, b"\x05\xff\xff\xff\xff\xff", oversized), 1):
            await is_refused(await ask(alice.host, to=BOB, data=data))
            await until(lambda count=count: at_bob.refused["broken"] == count)
        await is_refused(await ask(alice.host, HolePunch(type=SYNC), to=BOB))
        await until(lambda: at_bob.refused["broken"] == 4)
        stream = await ask(alice.host, connect, to=BOB)
        with trio.fail_after(5):
            assert (await receive(stream, HolePunch)).type == CONNECT
        await send(stream, connect)  # where SYNC is due
        await is_refused(stream)
        await until(lambda: at_bob.refused["broken"] == 5)
        assert at_bob.meeting.connections(ALICE.peer_id, ConnectionType.RELAYED)


@pytest.mark.real
async def test_whoever_is_silent_is_not_waited_for():
    async with relayed() as (alice, bob):
        at_bob = puncher(bob, rules=PunchRules(answer=0.3, loopback=True))
        await ask(alice.host, HolePunch(type=CONNECT), to=BOB)
        await until(lambda: at_bob.refused["broken"] == 1)

        async def listen(stream):
            await trio.sleep_forever()

        bob.host.set_stream_handler(DCUTR, listen)
        at_alice = puncher(alice, rules=PunchRules(answer=0.3, loopback=True))
        with pytest.raises(PeerError, match="silent"):
            await at_alice.attempt(BOB.peer_id)
        assert at_alice.outcomes == {"failed": 1}


@pytest.mark.real
async def test_strangers_those_who_did_not_come_through_a_relay_and_those_who_try_too_often_are_refused():
    async with relayed() as (alice, bob):
        to_strangers = puncher(bob, gate=lambda peer_id: False)
        await is_refused(await ask(alice.host, HolePunch(type=CONNECT), to=BOB))
        assert to_strangers.refused == {"stranger": 1}
        at_alice = puncher(alice)  # who was dialed: it is for her to begin
        await is_refused(await ask(bob.host, HolePunch(type=CONNECT)))
        assert at_alice.refused == {"not-relayed": 1}
        at_bob = puncher(bob, rules=PunchRules(tries=1, answer=5.0, dial=0.1, loopback=True))
        first = await ask(alice.host, HolePunch(type=CONNECT), to=BOB)
        with trio.fail_after(5):
            await receive(first, HolePunch)
        await is_refused(await ask(alice.host, HolePunch(type=CONNECT), to=BOB))
        assert at_bob.refused == {"busy": 1}
        await send(first, HolePunch(type=SYNC))
        await until(lambda: at_bob.outcomes["failed"] == 1)
        await is_refused(await ask(alice.host, HolePunch(type=CONNECT), to=BOB))
        assert at_bob.refused == {"busy": 1, "too-many": 1}
        assert bob.tally.counts[Cause.HOLE_PUNCH_REFUSED] == 3


@pytest.mark.real
async def test_no_more_than_twenty_addresses_are_dialed_and_never_our_own(monkeypatch):
    dialed = []

    async def note(self, address):
        dialed.append(address)
        await trio.sleep_forever()

    async with relayed() as (alice, bob):
        monkeypatch.setattr("node.network.transport.MeteredTCP.dial_from_listener", note)
        puncher(bob)
        many = [f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 40)]
        stream = await ask(
            alice.host, HolePunch(type=CONNECT, ObsAddrs=encode_addresses([*bob.addresses, *many])), to=BOB
        )
        with trio.fail_after(5):
            await receive(stream, HolePunch)
        dialed.clear()
        await send(stream, HolePunch(type=SYNC))
        await until(lambda: len(dialed) >= MAX_ADDRESSES - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(dialed) == sorted(many[: MAX_ADDRESSES - 1])


# Whole members


@pytest.mark.real
async def test_members_that_can_be_dialed_leave_the_relay_and_go_on_hearing_of_each_other():
    shelf = Shelf(ALICE)
    first = shelf.put(os.urandom(100_000), 1)
    async with run_host(RELAY, [LOOPBACK], lambda peer_id: True) as middle:
        serving, at = Relay(middle.host), f"{middle.addresses[0]}/p2p/{RELAY.peer_id}"
        changes = {"gate": MEMBERS, "relays": (at,), "punching": RULES}
        async with member("alice", shelf=shelf, **changes) as alice, member("bob", **changes) as bob:
            await until(lambda: serving.reservations() == 2)
            bob.hint(alice.peer_id, [f"{at}/p2p-circuit"])
            await until(lambda: alice.link(bob.peer_id) == bob.link(alice.peer_id) == "direct", 20)
            await until(lambda: serving.circuits() == 0, 20)
            carried = serving.carried
            assert await bob.fetch(first, [alice.peer_id], trio.current_time() + 20) == shelf.payloads[first.digest]
            assert serving.carried == carried
            values = {metric.name: metric.values for metric in bob.metrics()}
            assert values["fl_node_relayed_members"] == (((), 0),)
            assert "fl_node_hole_punches_total" in values
            second = shelf.put(b"after the relay", 2)
            with trio.fail_after(30):  # GossipSub's streams were on the relayed connection
                while bob.announced_round(alice.peer_id) < 2:
                    with suppress(NetworkError):
                        await alice.announce(second)
                    await trio.sleep(0.5)


@pytest.mark.real
async def test_a_relayed_connection_stays_until_what_is_under_way_on_it_has_ended():
    async with run_host(RELAY, [LOOPBACK], lambda peer_id: True) as middle:
        serving, at = Relay(middle.host), f"{middle.addresses[0]}/p2p/{RELAY.peer_id}"
        rules = replace(RULES, look=0.3, grace=0.1)
        changes = {"gate": MEMBERS, "relays": (at,), "punching": rules}
        async with member("alice", **changes) as alice, member("bob", **changes) as bob:
            await until(lambda: serving.reservations() == 2)
            bob.hint(alice.peer_id, [f"{at}/p2p-circuit"])
            await until(lambda: bob.link(alice.peer_id) == "relayed")
            through = next(
                c for c in bob._connections(alice.peer_id) if c.get_connection_type() == ConnectionType.RELAYED
            )
            under_way = await through.new_stream()
            await until(lambda: bob.link(alice.peer_id) == "direct", 20)
            with trio.move_on_after(1):
                while serving.circuits() == 1:
                    await trio.sleep(0.05)
            assert serving.circuits() == 1
            await under_way.reset()
            await until(lambda: serving.circuits() == 0, 20)


# Between network namespaces, behind NATs


@pytest.fixture
def namespaces():
    with four_namespaces() as names:
        yield names


class Child:
    """A process in a namespace, and what it says."""

    def __init__(self, process):
        self.process = process
        self.said = b""

    async def says(self, word: bytes) -> list[bytes]:
        """The lines up to that with the word."""
        with trio.fail_after(180):
            while word not in self.said or not self.said.endswith(b"\n"):
                some = await self.process.stdout.receive_some()
                assert some, self.said
                self.said += some
        return self.said.splitlines()


@asynccontextmanager
async def behind_nats(namespaces, kind):
    """The network, the relay and bob, whose alice is there already."""
    left, right, middle, between = namespaces
    children = []

    async def run(where, *words):
        command = ["ip", "netns", "exec", where, sys.executable, "-W", "ignore", "-m", *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        children.append(Child(await trio.lowlevel.open_process(command, cwd=ROOT, **pipes)))
        return children[-1]

    try:
        network = await run(between, "tests.network.nat", kind, left, right, middle)
        await network.says(b"ready")
        relay = await run(middle, "tests.network.punch_child", "relay")
        await relay.says(b"ready")
        alice = await run(left, "tests.network.punch_child", "alice")
        assert await alice.says(b"ready") == [b"ready at /ip4/198.51.100.1/tcp/20000"]  # which bob tries to dial first
        yield network, relay, await run(right, "tests.network.punch_child", "bob")
    finally:
        with trio.CancelScope(shield=True):
            for each in children:
                each.process.kill()
                await each.process.wait()
                await each.process.stdin.aclose()
                await each.process.stdout.aclose()


async def carried(child):
    """How many bytes the network has carried from NAT to NAT, or the relay from peer to peer."""
    child.said = b""
    await child.process.stdin.send_all(b"\n")
    return int((await child.says(b"\n"))[-1])


@pytest.mark.slow
async def test_members_behind_nats_punch_holes_and_exchange_without_the_relay(namespaces):
    async with behind_nats(namespaces, "cone") as (network, relay, bob):
        said = await bob.says(b"fetched")
        assert said == [b"dialed False", b"first relayed", b"then direct", b"fetched 1000000 right True"]
        assert await carried(network) > 1_000_000
        assert await carried(relay) < 100_000


@pytest.mark.slow
async def test_members_behind_nats_with_a_port_for_each_place_stay_on_the_relay(namespaces):
    async with behind_nats(namespaces, "symmetric") as (network, relay, bob):
        said = await bob.says(b"fetched")
        assert said == [b"dialed False", b"first relayed", b"then relayed", b"fetched 1000000 right True"]
        assert await carried(network) == 0
        assert await carried(relay) > 1_000_000
