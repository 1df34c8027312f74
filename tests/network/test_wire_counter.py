"""Bytes per peer are those that a wire between the two would count, to the byte."""

import os
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio

from node.messages import Traffic
from node.network.addresses import host_and_port, parse_peer_address
from node.network.host import dial, run_host
from tests.network.members import LOOPBACK, Shelf, identity, meet, member, until

pytestmark = pytest.mark.real


@dataclass
class Wire:
    """A wire that counts what goes up to the listener and down from it."""

    address: str = ""
    up: int = 0
    down: int = 0


GOODBYE = 30  # bytes of an encrypted Yamux frame


@asynccontextmanager
async def wire_to(address: str):
    """A wire to a listening peer; `address` with /p2p/."""
    peer = parse_peer_address(address)
    host, port = host_and_port(peer.address)
    wire = Wire()

    async def carry(source, sink, direction):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for some in source:
                setattr(wire, direction, getattr(wire, direction) + len(some))
                await sink.send_all(some)
            await sink.send_eof()

    async def connect(near):
        async with near, await trio.open_tcp_stream(host, port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far, "up")
            nursery.start_soon(carry, far, near, "down")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, connect, 0)
        wire.address = f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}/p2p/{peer.peer_id}"
        yield wire
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, 5_000_000])
async def test_bytes_per_peer_are_exactly_those_on_the_wire(size):
    shelf = Shelf(identity("alice"))
    async with (
        member("alice", shelf=shelf) as alice,
        wire_to(alice.addresses()[0]) as wire,
        member("bob", [wire.address]) as bob,
    ):
        await meet(alice, bob)
        for round in range(1, 4):
            before = bob.traffic()[alice.peer_id]
            announcement = shelf.put(os.urandom(size), round)
            await alice.announce(announcement)
            assert len(await bob.fetch(announcement, [alice.peer_id], trio.current_time() + 20)) == size
            assert bob.traffic()[alice.peer_id].bytes_in - before.bytes_in > size

        def are_level():
            counted = (alice.traffic()[bob.peer_id], bob.traffic()[alice.peer_id])
            return counted == (Traffic(wire.up, wire.down), Traffic(wire.down, wire.up))

        await until(are_level)


async def test_connections_that_end_leave_nothing_on_nobody_s_account():
    alice, bob = identity("alice"), identity("bob")

    def everybody(_peer_id):
        return True

    async with (
        run_host(alice, [LOOPBACK], everybody) as listens,
        run_host(bob, [LOOPBACK], everybody) as dials,
        wire_to(f"{listens.addresses[0]}/p2p/{alice.peer_id}") as wire,
    ):
        for leaves in (dials.host, listens.host, dials.host):
            await dial(dials.host, alice.peer_id, parse_peer_address(wire.address).address, 5)
            await until(lambda: len(listens.host.get_network().get_connections()) == 1)
            for connection in leaves.get_network().get_connections():
                await connection.close()
            await until(lambda: not listens.host.get_network().get_connections())
            await until(lambda: not dials.host.get_network().get_connections())
            await trio.sleep(0.1)  # in which the listener closes the stream once more
            assert wire.up > 100
            booked = listens.traffic.traffic()
            assert booked.keys() == {"", bob.peer_id}
            assert booked[""] == Traffic(0, 0)
            # a goodbye to somebody who has left may be sent and not carried, or carried and not read
            assert abs(booked[bob.peer_id].bytes_in - wire.up) <= 3 * GOODBYE
            assert abs(booked[bob.peer_id].bytes_out - wire.down) <= 3 * GOODBYE
            assert dials.traffic.traffic()[""] == Traffic(0, 0)
            assert listens.traffic.account(bob.peer_id).open_streams == 0


async def test_handshakes_that_fail_are_on_the_wire_and_on_nobody_s_account():
    async with member("alice") as alice, wire_to(alice.addresses()[0]) as wire:
        host, port = host_and_port(parse_peer_address(wire.address).address)
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x04junk")
            await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                async for _ in stream:
                    pass
        await until(lambda: alice.traffic() == {"": Traffic(wire.up, wire.down)})
