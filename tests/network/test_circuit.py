"""Nodes behind NATs: dialed through a relay, over loopback and between network namespaces."""

import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage

from node.causes import Cause
from node.errors import NetworkError
from node.network.addresses import known_addresses, parse_dialable, parse_peer_address
from node.network.circuit import HOP, STOP
from node.network.delimited import encode_peer_id, receive, send
from node.network.host import dial, run_host
from node.network.relaying import Relay, RelayRules
from tests.network.members import LOOPBACK, Shelf, identity, meet, member, until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
RELAY = identity("relay")
NOWHERE = "/ip4/127.0.0.1/tcp/9"


@asynccontextmanager
async def relay(rules: RelayRules | None = None):
    async with run_host(RELAY, [LOOPBACK], lambda peer_id: True) as running:
        serving = Relay(running.host, rules)
        yield serving, f"{running.addresses[0]}/p2p/{RELAY.peer_id}"


def only(*names):
    """A gate for these members: the relay is none."""
    return {identity(name).peer_id for name in names}.__contains__


async def ask(host, message: HopMessage) -> HopMessage:
    stream = await host.new_stream(ID.from_string(RELAY.peer_id), [HOP])
    await send(stream, message)
    with trio.fail_after(10):
        return await receive(stream, HopMessage)


def test_an_address_may_lead_through_one_relay():
    through = f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY.peer_id}/p2p-circuit"
    alice = identity("alice").peer_id
    assert parse_dialable(through) == through
    assert parse_peer_address(f"{through}/p2p/{alice}").address == through
    assert known_addresses([f"{through}/p2p/{alice}", through, f"{NOWHERE}/p2p/{alice}"], 8) == [through, NOWHERE]
    for wrong in (
        f"{through}/p2p/{alice}/p2p-circuit",
        "/ip4/192.0.2.1/tcp/4001/p2p-circuit",
        f"/ip4/192.0.2.1/udp/4001/p2p/{RELAY.peer_id}/p2p-circuit",
        "/p2p-circuit",
    ):
        with pytest.raises(NetworkError):
            parse_dialable(wrong)


async def test_a_member_is_reached_through_a_relay_and_gives_its_payload():
    payload = os.urandom(3_000_000)
    shelf = Shelf(identity("alice"))
    announcement = shelf.put(payload, 1)
    gate = only("alice", "bob", "carol")
    async with (
        relay() as (serving, at),
        member("alice", shelf=shelf, gate=gate, relays=(at,)) as alice,
        member("bob", gate=gate) as bob,
        member("carol", gate=gate) as carol,
    ):
        await until(lambda: serving.reservations() == 1)
        through = [address for address in alice.addresses() if "p2p-circuit" in address]
        assert through == [f"{at}/p2p-circuit/p2p/{alice.peer_id}"]
        for each in (bob, carol):  # two circuits to one peer
            each.hint(alice.peer_id, through)
        await until(lambda: {bob.peer_id, carol.peer_id} <= alice.connected())
        assert serving.circuits() == 2
        for each in (bob, carol):
            assert await each.fetch(announcement, [alice.peer_id], trio.current_time() + 30) == payload
        assert serving.carried > 2 * len(payload)
        await bob._parts.connector.disconnect(alice.peer_id)
        await until(lambda: serving.circuits() == 1)
        assert carol.peer_id in alice.connected()


async def test_a_relay_that_restarts_is_asked_again(monkeypatch):
    monkeypatch.setattr("node.network.circuit.RENEW_SECONDS", 0.2)
    gate = only("alice", "bob")
    async with run_host(RELAY, [LOOPBACK], lambda peer_id: True) as running:
        at = f"{running.addresses[0]}/p2p/{RELAY.peer_id}"
    async with (
        member("alice", gate=gate, relays=(at,)) as alice,
        member("bob", gate=gate) as bob,
        run_host(RELAY, [parse_peer_address(at).address], lambda peer_id: True) as running,
    ):
        serving = Relay(running.host)
        await until(lambda: serving.reservations() == 1, 30)
        bob.hint(alice.peer_id, [f"{at}/p2p-circuit"])
        await meet(alice, bob)


async def test_a_relay_refuses_and_counts_what_it_does_not_do():
    target = PeerId(id=encode_peer_id(identity("alice").peer_id))
    async with (
        relay(RelayRules(max_reservations=1)) as (serving, at),
        run_host(identity("mallory"), [LOOPBACK], lambda peer_id: True) as mallory,
        run_host(identity("minion"), [LOOPBACK], lambda peer_id: True) as minion,
    ):
        place = parse_peer_address(at)
        for each in (mallory, minion):
            await dial(each.host, place.peer_id, place.address, 5)
        connect = HopMessage(type=HopMessage.CONNECT, peer=target)
        assert (await ask(mallory.host, connect)).status == Status.NO_RESERVATION
        assert (await ask(mallory.host, HopMessage(type=HopMessage.STATUS))).status == Status.UNEXPECTED_MESSAGE
        assert (await ask(mallory.host, HopMessage(type=HopMessage.RESERVE))).status == Status.OK
        assert (await ask(minion.host, HopMessage(type=HopMessage.RESERVE))).status == Status.RESERVATION_REFUSED
        assert sum(serving.refused.values()) == 3
        assert serving.tally.counts == {Cause.NO_RESERVATION: 1, Cause.BAD_RELAY_MESSAGE: 1, Cause.RELAY_FULL: 1}
        for garbage in (b"\xff" * 100, b"\xff\xff\xff\xff\x0f" + bytes(100), b"\x02\x08\x63"):
            with suppress(BaseLibp2pError):
                stream = await mallory.host.new_stream(ID.from_string(RELAY.peer_id), [HOP])
                await stream.write(garbage)
        assert (await ask(mallory.host, HopMessage(type=HopMessage.RESERVE))).status == Status.OK


async def test_only_a_relay_that_the_user_named_may_hand_over_connections():
    async with (
        relay() as (_, at),
        member("alice", relays=(at,)) as alice,
        run_host(identity("mallory"), [LOOPBACK], lambda peer_id: True) as mallory,
    ):
        place = parse_peer_address(alice.addresses()[0])
        await dial(mallory.host, place.peer_id, place.address, 5)
        stream = await mallory.host.new_stream(ID.from_string(alice.peer_id), [STOP])
        await send(stream, StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=encode_peer_id(alice.peer_id))))
        with trio.fail_after(10):
            assert (await receive(stream, StopMessage)).status == Status.PERMISSION_DENIED


# Between network namespaces


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def namespaces():
    """Three machines of a kind: `left` and `right` reach the one in the middle, and not each other."""
    left, middle, right = (f"fl{os.getpid()}{name}" for name in "lmr")
    if shutil.which("ip") is None or not ip("netns", "add", middle):
        pytest.skip("needs the privilege to make network namespaces (ip netns add)")
    try:
        for number, name in ((1, left), (2, right)):
            assert ip("netns", "add", name)
            near, far = f"fln{number}", f"flf{number}"
            assert ip("link", "add", near, "netns", name, "type", "veth", "peer", "name", far, "netns", middle)
            for where, device, host in ((name, near, 2), (middle, far, 1)):
                assert ip("-n", where, "addr", "add", f"10.77.{number}.{host}/24", "dev", device)
                assert ip("-n", where, "link", "set", device, "up")
        yield left, middle, right
    finally:
        for name in (left, middle, right):
            ip("netns", "del", name)


async def test_members_in_networks_that_do_not_reach_each_other_meet_through_a_relay(namespaces):
    left, middle, right = namespaces

    async def run(where, *words):
        command = ["ip", "netns", "exec", where, sys.executable, "-W", "ignore", "-m", "tests.network.circuit_child"]
        return await trio.lowlevel.open_process(
            [*command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT
        )

    async def says(process, word):
        said = b""
        with trio.fail_after(90):
            while word not in said:
                some = await process.stdout.receive_some()
                assert some, said
                said += some

    processes = [await run(middle, "relay")]
    try:
        await says(processes[0], b"ready")
        processes.append(await run(left, "alice", "10.77.1.2", "10.77.1.1"))
        await says(processes[1], b"ready")
        processes.append(await run(right, "bob", "10.77.2.2", "10.77.2.1"))
        await says(processes[2], b"fetched 1000000 bytes")
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                process.kill()
                await process.wait()
                await process.stdout.aclose()
