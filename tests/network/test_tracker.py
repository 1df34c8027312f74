import random
from contextlib import AsyncExitStack

import pytest
import trio
from libp2p.discovery.rendezvous.client import RendezvousClient
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from node.causes import Cause
from node.errors import PeerError
from node.network import rendezvous
from node.network.connecting import ConnectionRules
from node.network.delimited import receive, send
from node.network.host import dial
from node.network.metrics import prometheus_text
from node.network.registrations import Directory, TrackerRules
from node.network.tracker import REFUSALS, run_tracker
from tests.network.members import LOOPBACK, SESSION, Shelf, identity, meet, member, until
from tests.network.test_hardening import hardened, stock

ADDRESSES = ("/ip4/192.0.2.1/tcp/4001",)
TRACKER = identity("tracker")
MEMBERS = TRACKER.peer_id.__ne__


def directory(**rules) -> Directory:
    return Directory(TrackerRules(**rules), random.Random(1))


# The directory


def test_a_member_is_found_by_others_and_not_by_itself():
    listed = directory()
    listed.register("ns", "alice", ADDRESSES, 100)
    assert [peer for peer, _ in listed.page("ns", "bob", 10, b"")[0]] == ["alice"]
    assert listed.page("ns", "alice", 10, b"") == ([], b"")
    assert listed.page("other", "bob", 10, b"") == ([], b"")


def test_pages_together_name_everybody_once():
    listed = directory()
    everybody = {f"peer {n}" for n in range(50)}
    for peer in everybody:
        listed.register("ns", peer, ADDRESSES, 100)
    found, cookie = [], b""
    while True:
        page, cookie = listed.page("ns", "asker", 7, cookie)
        found += [peer for peer, _ in page]
        if not cookie:
            break
    assert len(found) == 50
    assert set(found) == everybody


def test_different_askers_learn_different_members():
    listed = directory()
    for n in range(100):
        listed.register("ns", f"peer {n}", ADDRESSES, 100)
    pages = {tuple(peer for peer, _ in listed.page("ns", "asker", 5, b"")[0]) for _ in range(20)}
    assert len(pages) > 10


def test_registrations_expire():
    listed = directory()
    listed.register("ns", "alice", ADDRESSES, 100)
    listed.register("ns", "bob", ADDRESSES, 200)
    listed.expire(150)
    assert [peer for peer, _ in listed.page("ns", "carol", 10, b"")[0]] == ["bob"]
    listed.expire(250)
    assert listed.namespaces() == []


def test_everything_is_bounded():
    listed = directory(max_namespaces=2, max_members=2, max_namespaces_per_peer=2)
    assert listed.register("a", "alice", ADDRESSES, 100) is None
    assert listed.register("a", "bob", ADDRESSES, 100) is None
    assert listed.register("a", "carol", ADDRESSES, 100) == "this namespace is full"
    assert listed.register("b", "alice", ADDRESSES, 100) is None
    assert listed.register("c", "dave", ADDRESSES, 100) == "this tracker is full"
    assert listed.register("c", "alice", ADDRESSES, 100) == "too many namespaces of one peer"
    assert listed.register("a", "alice", ADDRESSES, 300) is None


@pytest.mark.parametrize("cookie", [bytes(8), b"\xff" * 8, b"\x00\x00\x00\x09\xff\xff\xff\xff"])
def test_a_cookie_that_was_made_up_does_no_harm(cookie):
    listed = directory()
    listed.register("ns", "alice", ADDRESSES, 100)
    page, _ = listed.page("ns", "bob", 10, cookie)
    assert len(page) <= 1


# Over the network


@pytest.mark.real
async def test_members_of_one_session_find_each_other_through_a_tracker():
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker:
        at = (f"{tracker.running.addresses[0]}/p2p/{TRACKER.peer_id}",)
        async with (
            member("alice", trackers=at, gate=MEMBERS) as alice,
            member("bob", trackers=at, gate=MEMBERS) as bob,
            member("carol", trackers=at, gate=MEMBERS) as carol,
            member("dave", trackers=at, gate=MEMBERS, session_id=7) as dave,
        ):
            await meet(alice, bob, carol)
            assert not dave.connected()
            assert all(TRACKER.peer_id in each.tracker_seconds() for each in (alice, bob, carol))
            assert tracker.directory.members(rendezvous.namespace_of(SESSION)) == 3
            assert tracker.counts.announces >= 4


@pytest.mark.real
async def test_a_tracker_that_comes_up_later_is_found():
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker:
        address = tracker.running.addresses[0]
    at = (f"{address}/p2p/{TRACKER.peer_id}",)
    async with (
        member("alice", trackers=at, gate=MEMBERS) as alice,
        member("bob", trackers=at, gate=MEMBERS) as bob,
        run_tracker(TRACKER, [address]),
    ):
        await meet(alice, bob)


@pytest.mark.real
async def test_py_libp2p_s_own_client_registers_and_discovers():
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker, member("alice") as alice, stock() as other:
        del alice
        await other.connect(info_from_p2p_addr(Multiaddr(f"{tracker.running.addresses[0]}/p2p/{TRACKER.peer_id}")))
        client = RendezvousClient(other, ID.from_string(TRACKER.peer_id))
        assert await client.register("somewhere", 3600) == 3600
        async with hardened() as asker:
            await dial(asker.host, TRACKER.peer_id, tracker.running.addresses[0], 5)
            stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
            found = await rendezvous.look_up(stream, "somewhere", 10)
        assert [peer_id for peer_id, _ in found.members] == [str(other.get_id())]


@pytest.mark.real
@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (Message(type=0, register=Message.Register(ns="x", ttl=300)), Cause.BAD_REGISTRATION),
        (Message(type=3, discover=Message.Discover(ns="")), Cause.BAD_NAMESPACE),
        (Message(type=3, discover=Message.Discover(ns="x" * 257)), Cause.BAD_NAMESPACE),
        (Message(type=3, discover=Message.Discover(ns="x", cookie=b"123")), Cause.BAD_COOKIE),
        (
            Message(
                type=0,
                register=Message.Register(
                    ns="x", ttl=300, peer=rendezvous.peer_message(identity("bob").peer_id, ADDRESSES)
                ),
            ),
            Cause.BAD_REGISTRATION,
        ),
    ],
)
async def test_requests_that_are_not_allowed_are_refused_and_counted(request_, refusal):
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker, hardened() as asker:
        await dial(asker.host, TRACKER.peer_id, tracker.running.addresses[0], 5)
        stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
        await send(stream, request_)
        with trio.fail_after(5):
            await receive(stream, Message)
        assert tracker.running.tally.counts == {refusal: 1}


@pytest.mark.real
async def test_who_asks_too_often_is_put_off():
    rules = TrackerRules(per_second=0.001, burst=3)
    async with run_tracker(TRACKER, [LOOPBACK], rules) as tracker, hardened() as asker:
        await dial(asker.host, TRACKER.peer_id, tracker.running.addresses[0], 5)
        stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
        for _ in range(3):
            await rendezvous.look_up(stream, "somewhere", 10)
        with pytest.raises(PeerError, match="slow down"):
            await rendezvous.look_up(stream, "somewhere", 10)
        assert tracker.running.tally.counts == {Cause.TRACKER_FLOOD: 1}


@pytest.mark.real
async def test_garbage_ends_the_stream_and_not_the_tracker():
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker, hardened() as asker:
        await dial(asker.host, TRACKER.peer_id, tracker.running.addresses[0], 5)
        for content in (b"\xff" * 12, b"\x05\xff\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01" + bytes(1000)):
            stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
            await stream.write(content)
            await stream.close()
        (connection,) = asker.host.get_network().get_connections(ID.from_string(TRACKER.peer_id))
        await until(lambda: not connection.muxed_conn.streams)
        stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
        assert (await rendezvous.look_up(stream, "somewhere", 10)).members == ()


@pytest.mark.real
async def test_a_tracker_counts_what_it_cannot_read():
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker, hardened() as asker:
        await dial(asker.host, TRACKER.peer_id, tracker.running.addresses[0], 5)
        for content in (b"\x05\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x7f"):  # garbage, 32 GiB
            stream = await asker.host.new_stream(ID.from_string(TRACKER.peer_id), [rendezvous.PROTOCOL])
            await stream.write(content)
        await until(lambda: tracker.running.tally.counts[Cause.BAD_TRACKER_MESSAGE] == 2)
        assert 'fl_node_tracker_refused_total{cause="bad-tracker-message"} 2' in prometheus_text(tracker.metrics())


@pytest.mark.real
async def test_a_tracker_that_answers_garbage_is_counted_by_who_asked():
    async def lie(stream):
        await receive(stream, Message)
        await stream.write(b"\x05\xff\xff\xff\xff\xff")

    async with hardened(TRACKER) as liar:
        liar.host.set_stream_handler(rendezvous.PROTOCOL, lie)
        at = (f"{liar.addresses[0]}/p2p/{TRACKER.peer_id}",)
        async with member("alice", trackers=at, gate=MEMBERS) as alice:
            await until(lambda: alice.standings.refused.get(Cause.BAD_TRACKER_ANSWER, 0) >= 1)


def is_one_network(networks) -> bool:
    """Whether everybody can be reached from the first over connections."""
    by_id = {each.peer_id: each for each in networks}
    reached, left = set(), [networks[0].peer_id]
    while left:
        peer_id = left.pop()
        if peer_id not in reached:
            reached.add(peer_id)
            left += by_id[peer_id].connected()
    return len(reached) == len(by_id)


@pytest.mark.slow
async def test_sixty_four_members_become_one_network_through_one_tracker():
    """In one process, so each keeps to a few random others: a full mesh would be 2,016 handshakes on one core."""
    rules = ConnectionRules(enough=6, dial_timeout=30)
    shelf = Shelf(identity("member 0"))
    async with run_tracker(TRACKER, [LOOPBACK]) as tracker, AsyncExitStack() as running:
        at = (f"{tracker.running.addresses[0]}/p2p/{TRACKER.peer_id}",)
        networks = []
        for number in range(64):
            one = member(f"member {number}", (), shelf if not number else None, MEMBERS, trackers=at, connections=rules)
            networks.append(await running.enter_async_context(one))
        await until(lambda: all(len(each.connected()) >= 6 for each in networks), 240)
        await until(lambda: is_one_network(networks), 60)
        assert tracker.directory.members(rendezvous.namespace_of(SESSION)) == 64
        assert not tracker.running.tally.counts.keys() & REFUSALS.keys()
        announcement = shelf.put(b"payload", 1)
        await networks[0].announce(announcement)
        with trio.fail_after(60):
            for each in networks[1:]:
                assert await each.announcements.receive() == announcement
        far = next(each for each in networks[1:] if networks[0].peer_id not in each.connected())
        fetched = await far.fetch(announcement, [networks[0].peer_id], trio.current_time() + 60)
        assert fetched == b"payload"
