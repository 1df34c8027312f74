import os
import random
from contextlib import AsyncExitStack

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID

from node.network.delimited import encode_addresses, encode_peer_id, receive, send
from node.network.host import dial
from node.network.kademlia import PROTOCOL
from node.network.routing import (
    BUCKET,
    MAX_KEYS_PER_PEER,
    MAX_PROVIDERS,
    PROVIDED_FOR,
    Contact,
    Providers,
    RoutingTable,
    point,
)
from tests.network.members import identity, meet, member, until
from tests.network.test_hardening import hardened

ADDRESSES = ("/ip4/192.0.2.1/tcp/4001",)


def contact(number: int) -> Contact:
    return Contact(f"peer {number}", point(str(number).encode()), ADDRESSES)


def test_the_nearest_contacts_are_found_by_xor():
    table = RoutingTable(point(b"me"))
    contacts = [contact(number) for number in range(60)]
    for each in contacts:
        table.seen(each)
    target = point(b"target")
    known = [each for each in contacts if each in table.closest(target, 1000)]
    assert table.closest(target, 5) == sorted(known, key=lambda each: each.point ^ target)[:5]


def test_the_table_is_bounded_and_prefers_who_has_been_there_long():
    table = RoutingTable(0)
    far = [Contact(f"peer {n}", (1 << 255) + n, ADDRESSES) for n in range(BUCKET + 10)]
    for each in far:
        table.seen(each)
    assert len(table) == BUCKET
    assert far[0] in table.closest(0, 100)
    assert far[-1] not in table.closest(0, 100)
    table.gone("peer 0")
    table.seen(far[-1])
    assert far[-1] in table.closest(0, 100)


def test_we_are_never_in_our_own_table():
    table = RoutingTable(point(b"me"))
    table.seen(Contact("me", point(b"me"), ADDRESSES))
    assert len(table) == 0


def test_providers_expire_and_are_bounded():
    providers = Providers()
    for number in range(MAX_PROVIDERS + 10):
        providers.add(b"key", (f"peer {number}", ADDRESSES), 0.0)
    assert len(providers.of(b"key", 1.0)) == MAX_PROVIDERS
    assert providers.of(b"key", PROVIDED_FOR + 1) == []
    providers.expire(PROVIDED_FOR + 1)
    assert not providers._keys
    assert not providers._of_peer
    accepted = [providers.add(bytes([number]), ("greedy", ADDRESSES), 0.0) for number in range(MAX_KEYS_PER_PEER + 5)]
    assert sum(accepted) == MAX_KEYS_PER_PEER


@pytest.mark.real
async def test_members_find_each_other_through_the_directory():
    """Two sessions; everybody knows only one peer, which belongs to the other session."""
    async with AsyncExitStack() as running:
        first = await running.enter_async_context(member("elsewhere", session_id=7, dht=True))
        at = first.addresses()
        others = set()

        def gate(peer_id: str) -> bool:
            return peer_id not in others

        others.add(first.peer_id)
        names = ["alice", "bob", "carol", "dave"]
        nodes = [
            await running.enter_async_context(member(name, at, gate=gate, dht=True, ask_seconds=1000)) for name in names
        ]
        await meet(*nodes)
        assert len(nodes[0]._parts.directory.table) > 0


async def asked(asker, network, message: Message) -> Message:
    stream = await asker.host.new_stream(ID.from_string(network.peer_id), [PROTOCOL])
    await send(stream, message)
    with trio.fail_after(5):
        return await receive(stream, Message)


@pytest.mark.real
async def test_a_peer_can_only_provide_in_its_own_name():
    async with member("alice", dht=True) as alice, hardened(identity("bob")) as bob:
        await dial(bob.host, alice.peer_id, alice.addresses()[0].partition("/p2p/")[0], 5)
        stream = await bob.host.new_stream(ID.from_string(alice.peer_id), [PROTOCOL])
        key = b"a key of nobody's session"
        for name in ("carol", "bob"):
            own = Message.Peer(id=encode_peer_id(identity(name).peer_id), addrs=encode_addresses(ADDRESSES))
            await send(stream, Message(type=Message.ADD_PROVIDER, key=key, providerPeers=[own]))
        await until(lambda: bool(alice._parts.directory.providers.of(key, 0)))
        assert [peer for peer, _ in alice._parts.directory.providers.of(key, 0)] == [identity("bob").peer_id]
        answer = await asked(bob, alice, Message(type=Message.GET_PROVIDERS, key=key))
        assert len(answer.providerPeers) == 1


@pytest.mark.real
async def test_garbage_and_lies_do_not_end_the_directory():
    chance = random.Random(2)
    async with member("alice", dht=True) as alice, hardened(identity("bob")) as bob:
        await dial(bob.host, alice.peer_id, alice.addresses()[0].partition("/p2p/")[0], 5)
        liars = [Message.Peer(id=os.urandom(40), addrs=[os.urandom(20)]) for _ in range(200)]
        for content in (
            Message(type=Message.FIND_NODE, key=bytes(1000)),
            Message(type=Message.ADD_PROVIDER, key=b"key", providerPeers=liars),
            Message(type=Message.PUT_VALUE, key=b"key"),
        ):
            stream = await bob.host.new_stream(ID.from_string(alice.peer_id), [PROTOCOL])
            await send(stream, content)
            await stream.close()
        for size in (1, 10, 1000):
            stream = await bob.host.new_stream(ID.from_string(alice.peer_id), [PROTOCOL])
            await stream.write(chance.randbytes(size))
            await stream.close()
        answer = await asked(bob, alice, Message(type=Message.FIND_NODE, key=b"key"))
        assert answer.type == Message.FIND_NODE
