"""Whole nodes on loopback: members that find each other, announce, and fetch."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.errors import NetworkError, PeerError
from node.messages import Content
from node.network.announcements import Verdict
from node.network.connecting import ConnectionRules
from node.network.fetching import FetchTimes
from node.network.service import open_network
from node.network.sink import SpoolRule
from tests.network.members import Shelf, announce, identity, meet, member, settings, until

pytestmark = pytest.mark.real

ALICE, BOB, CAROL = identity("alice"), identity("bob"), identity("carol")
NAMES = ["alice", "bob", "carol", "dave", "erin", "frank"]


def soon(seconds: float = 10) -> float:
    return trio.current_time() + seconds


async def heard(network, seconds: float = 10):
    with trio.fail_after(seconds):
        return await network.announcements.receive()


# Finding each other


async def test_members_that_know_one_member_all_find_each_other():
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses()) as carol,
        member("dave", alice.addresses()) as dave,
    ):
        await meet(alice, bob, carol, dave)


async def test_members_with_a_chain_of_acquaintances_all_find_each_other():
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", bob.addresses()) as carol,
        member("dave", carol.addresses()) as dave,
    ):
        await meet(alice, bob, carol, dave)


async def test_members_on_one_network_find_each_other_by_mdns():
    async with member("alice", mdns=True) as alice, member("bob", mdns=True) as bob:
        await meet(alice, bob)


async def test_members_of_two_sessions_never_meet_by_mdns():
    async with (
        member("alice", mdns=True, session_id=1) as alice,
        member("bob", mdns=True, session_id=2) as bob,
        member("carol", mdns=True, session_id=2) as carol,
    ):
        await meet(bob, carol)
        assert not alice.connected()


async def test_the_ledger_s_addresses_are_enough():
    async with member("alice") as alice, member("bob") as bob:
        bob.hint(alice.peer_id, ["nonsense", *alice.addresses()])
        await meet(alice, bob)


async def test_a_peer_that_comes_up_later_is_found():
    async with member("alice") as alice:
        address = alice.addresses()[0]
    async with member("bob", [address]) as bob:
        await trio.sleep(0.3)
        assert not bob.connected()
        async with member("alice", listen=address.partition("/p2p/")[0]) as alice:
            await meet(alice, bob)


async def test_a_member_that_restarts_on_another_port_is_found_again():
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        async with member("carol", alice.addresses()) as carol:
            await meet(alice, bob, carol)
            old = carol.addresses()
        await until(lambda: CAROL.peer_id not in alice.connected() | bob.connected())
        async with member("carol", alice.addresses()) as carol:
            assert carol.addresses() != old
            await meet(alice, bob, carol)


async def test_a_bootstrap_peer_that_restarts_on_the_same_port_is_found_again():
    async with member("alice") as alice:
        address = alice.addresses()[0]
        async with member("bob", [address]) as bob:
            await meet(alice, bob)
    listen = address.partition("/p2p/")[0]
    async with member("bob", [address]) as bob:
        async with member("alice", listen=listen) as alice:
            await meet(alice, bob)
        await until(lambda: not bob.connected())
        async with member("alice", listen=listen) as alice:
            await meet(alice, bob)


# Announcements


async def test_every_member_hears_an_announcement_once():
    shelf = Shelf(ALICE)
    async with (
        member("alice", shelf=shelf) as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses()) as carol,
    ):
        await meet(alice, bob, carol)
        announcement = shelf.put(b"payload", 1)
        await alice.announce(announcement)
        assert await heard(bob) == await heard(carol) == announcement
        await bob.refresh(alice.peer_id)
        await bob.refresh(carol.peer_id)
        with pytest.raises(trio.WouldBlock):
            bob.announcements.receive_nowait()


async def test_a_member_that_joins_late_hears_what_was_said_before():
    shelf = Shelf(ALICE)
    early = [shelf.put(f"payload {n}".encode(), n) for n in range(3)]
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        assert sorted([await heard(bob) for _ in range(3)], key=lambda each: each.round) == early


async def test_what_an_absent_member_announced_is_learned_from_others():
    shelf = Shelf(ALICE)
    announcement = shelf.put(b"payload", 1)
    async with member("bob") as bob:
        async with member("alice", bob.addresses(), shelf=shelf):
            assert await heard(bob) == announcement
        async with member("carol", bob.addresses()) as carol:
            assert await heard(carol) == announcement


async def test_only_our_own_announcements_are_ours_to_make():
    async with member("alice") as alice:
        with pytest.raises(NetworkError, match="not ours"):
            await alice.announce(announce(BOB, 1, b"payload"))


async def test_a_forged_announcement_is_neither_delivered_nor_forwarded():
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", bob.addresses()) as carol,
    ):
        await meet(alice, bob, carol)
        forged = replace(announce(ALICE, 1, b"payload"), signature=bytes(64))
        await until(lambda: len(alice._parts.gossip.neighbors()) == 2)
        await alice._parts.gossip.announce(forged)
        await until(lambda: bob.standings.refused["bad-announcement"] + carol.standings.refused["bad-announcement"] > 0)
        for each in (bob, carol):
            with pytest.raises(trio.WouldBlock):
                each.announcements.receive_nowait()


async def test_equivocation_is_seen_by_everybody_and_kept_as_evidence():
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses()) as carol,
    ):
        await meet(alice, bob, carol)
        first, second = announce(ALICE, 1, b"for bob"), announce(ALICE, 1, b"for carol")
        await alice.announce(first)
        assert await heard(bob) == await heard(carol) == first
        await alice.announce(second)
        await until(lambda: bool(bob.equivocations() and carol.equivocations()))
        (evidence,) = bob.equivocations()
        assert (evidence.first, evidence.second) == (first, second)
        assert bob.standings.score(alice.peer_id) < 0


# Payloads


@pytest.mark.parametrize("size", [1, 31_000, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("kept_as", [bytes, Path])
@pytest.mark.parametrize("memory_limit", [0, 1 << 30])
async def test_a_payload_arrives_as_it_was(tmp_path, size, kept_as, memory_limit):
    payload = random.Random(size).randbytes(size)
    shelf = Shelf(ALICE)
    announcement = shelf.put(payload, 1)
    if kept_as is Path:
        (tmp_path / "payload").write_bytes(payload)
        shelf.payloads[announcement.digest] = tmp_path / "payload"
    spool = SpoolRule(memory_limit, tmp_path)
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses(), spool=spool) as bob:
        fetched = await bob.fetch(announcement, [alice.peer_id], soon())
        content = fetched.read_bytes() if isinstance(fetched, Path) else fetched
        assert content == payload
        assert isinstance(fetched, bytes) == (memory_limit > 0)


async def test_a_corrupted_payload_is_refused_and_another_holder_asked(tmp_path):
    payload = os.urandom(2_000_000)
    good, bad = Shelf(ALICE), Shelf(BOB)
    announcement = good.put(payload, 1)
    bad.payloads[announcement.digest] = payload[:-1] + bytes([payload[-1] ^ 1])
    spool = SpoolRule(0, tmp_path)
    async with (
        member("alice", shelf=good) as alice,
        member("bob", alice.addresses(), shelf=bad) as bob,
        member("carol", alice.addresses(), spool=spool) as carol,
    ):
        await meet(alice, bob, carol)
        fetched = await carol.fetch(announcement, [bob.peer_id, alice.peer_id], soon())
        assert isinstance(fetched, Path)
        assert fetched.read_bytes() == payload
        assert carol.standings.refused["corrupt-payload"] == 1
        assert carol.standings.score(bob.peer_id) < 0
        assert list(tmp_path.iterdir()) == [fetched]


async def test_a_payload_nobody_has_intact_is_a_peer_s_fault():
    bad = Shelf(BOB)
    announcement = announce(ALICE, 1, b"payload")
    bad.payloads[announcement.digest] = b"dayload"
    async with member("bob", shelf=bad) as bob, member("carol", bob.addresses()) as carol:
        with pytest.raises(PeerError, match="left out"):
            await carol.fetch(announcement, [bob.peer_id], soon())


async def test_what_came_before_the_deadline_is_not_asked_for_again():
    payload, shelf, starts = os.urandom(300_000), Shelf(ALICE), []
    announcement = shelf.put(payload, 1)
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        client, asked = bob._parts.client, bob._parts.client._fetch_into

        async def until_half_is_there(sink, peer_id, turn):
            starts.append(sink.received)
            write = sink.write

            async def stalls(pieces):
                await write(pieces)
                if len(starts) == 1 and sink.received > 100_000:
                    await trio.sleep_forever()

            sink.write = stalls
            try:
                await asked(sink, peer_id, turn)
            finally:
                del sink.write

        client._fetch_into = until_half_is_there
        with pytest.raises(PeerError, match="in time"):
            await bob.fetch(announcement, [alice.peer_id], soon(2))
        assert len(client.unfinished) == 1
        assert await bob.fetch(announcement, [alice.peer_id], soon()) == payload
        assert starts[0] == 0
        assert starts[1] > 100_000
        assert len(client.unfinished) == 0


async def test_a_payload_that_is_not_there_is_waited_for_until_the_deadline():
    shelf = Shelf(ALICE)
    announcement = announce(ALICE, 1, b"payload")
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        with pytest.raises(PeerError, match="in time"):
            await bob.fetch(announcement, [alice.peer_id], soon(0.3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.fetch, announcement, [alice.peer_id], soon())
            asked = shelf.opened
            await until(lambda: shelf.opened > asked)
            shelf.put(b"payload", 1)


async def test_a_payload_over_the_limit_is_not_asked_for():
    async with member("alice") as alice:
        with pytest.raises(PeerError, match="over the session's limit"):
            await alice.fetch(replace(announce(BOB, 1, b"x"), size=1 << 40), [BOB.peer_id], soon())


async def test_a_holder_that_cannot_be_reached_costs_only_its_turn():
    shelf = Shelf(ALICE)
    announcement = shelf.put(b"payload", 1)
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        assert await bob.fetch(announcement, [CAROL.peer_id, alice.peer_id], soon()) == b"payload"


async def test_several_payloads_come_from_several_peers_at_once():
    shelves = {name: Shelf(identity(name)) for name in NAMES[:3]}
    async with (
        member("alice", shelf=shelves["alice"]) as alice,
        member("bob", alice.addresses(), shelves["bob"]) as bob,
        member("carol", alice.addresses(), shelves["carol"]) as carol,
        member("dave", alice.addresses()) as dave,
    ):
        await meet(alice, bob, carol, dave)
        payloads = {name: os.urandom(1_000_000) for name in shelves}
        fetched = {}

        async def fetch(name):
            announcement = shelves[name].put(payloads[name], 1)
            fetched[name] = await dave.fetch(announcement, [announcement.peer_id], soon())

        async with trio.open_nursery() as nursery:
            for name in shelves:
                nursery.start_soon(fetch, name)
        assert fetched == payloads


# Who belongs


async def test_a_stranger_is_refused_politely_and_counted():
    shelf = Shelf(ALICE)
    announcement = shelf.put(b"payload", 1)
    members = {ALICE.peer_id, BOB.peer_id}
    async with (
        member("alice", shelf=shelf, gate=members.__contains__) as alice,
        member("carol", alice.addresses()) as carol,
    ):
        await until(lambda: alice.peer_id in carol.connected())
        with pytest.raises(PeerError, match="refuses: you are no member of this session"):
            await carol.refresh(alice.peer_id)
        with pytest.raises(PeerError, match="left out"):
            await carol.fetch(announcement, [alice.peer_id], soon())
        assert shelf.opened == 0
        assert alice.standings.refused["stranger-asks"] >= 2
        assert alice.connected() == frozenset()
        assert alice._parts.gossip.neighbors() == frozenset()


async def test_a_member_that_is_admitted_later_is_greeted_then():
    shelf = Shelf(ALICE)
    announcement = shelf.put(b"payload", 1)
    members = {ALICE.peer_id}
    async with (
        member("alice", shelf=shelf, gate=members.__contains__) as alice,
        member("bob", alice.addresses(), ask_seconds=0.2) as bob,
    ):
        await until(lambda: alice.peer_id in bob.connected())
        members.add(BOB.peer_id)
        assert await heard(bob) == announcement
        await until(lambda: bob.peer_id in alice._parts.gossip.neighbors())


async def test_a_member_that_is_removed_is_cut_off():
    members = {ALICE.peer_id, BOB.peer_id}
    async with member("alice", gate=members.__contains__) as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        await until(lambda: bob.peer_id in alice._parts.gossip.neighbors())
        members.remove(BOB.peer_id)
        await until(lambda: not alice._parts.gossip.neighbors())
        assert not alice.connected()
        with pytest.raises(PeerError):
            await bob.refresh(alice.peer_id)


async def test_strangers_take_only_so_much_room():
    rules = ConnectionRules(max_strangers=2)
    members = {ALICE.peer_id, "nobody else"}
    async with member("alice", gate=members.__contains__, connections=rules) as alice, trio.open_nursery() as nursery:

        async def visit(name):
            async with member(name, alice.addresses()):
                await trio.sleep_forever()

        for name in ("bob", "carol", "dave", "erin"):
            nursery.start_soon(visit, name)
        await until(lambda: alice.standings.refused["stranger-limit"] >= 2)
        linked = [name for name in NAMES[1:5] if alice._parts.connector.is_linked(identity(name).peer_id)]
        assert len(linked) == 2
        nursery.cancel_scope.cancel()


async def test_a_stranger_that_does_nothing_is_disconnected():
    rules = ConnectionRules(stranger_seconds=0.2)
    async with (
        member("alice", gate={ALICE.peer_id}.__contains__, connections=rules) as alice,
        member("bob", alice.addresses(), gate={BOB.peer_id}.__contains__) as bob,
    ):
        await until(lambda: bob._parts.connector.is_linked(alice.peer_id))
        await until(lambda: not alice._parts.connector.is_linked(bob.peer_id))


# Faults


async def test_our_own_fault_ends_the_network_loudly():
    class Broken(Shelf):
        def open(self, digest):
            raise ZeroDivisionError("a bug in our own code")

    shelf = Broken(ALICE)
    announcement = shelf.put(b"payload", 1)
    with pytest.raises(ZeroDivisionError, match="our own code"):  # noqa: PT012  (the network ends around us)
        async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
            with trio.move_on_after(10):
                await bob.fetch(announcement, [alice.peer_id], soon())
            await trio.sleep(10)


async def test_an_exception_of_the_caller_comes_out_as_it_is():
    with pytest.raises(KeyError):
        async with member("alice"):
            raise KeyError("caller")


async def test_a_malformed_peer_is_refused_before_anything_is_started():
    shelf = Shelf(ALICE)
    with pytest.raises(NetworkError, match="names no peer"):
        async with open_network(ALICE, settings(["/ip4/127.0.0.1/tcp/1"]), lambda _: True, shelf, shelf.since):
            pass


async def test_a_silent_holder_is_given_up_for_the_next(nursery):
    shelf = Shelf(ALICE)
    announcement = shelf.put(b"payload", 1)
    times = FetchTimes(reply=0.2, chunk=0.2)
    async with (
        member("alice", shelf=shelf) as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses(), fetch_times=times) as carol,
    ):
        await meet(alice, bob, carol)
        bob._parts.running.host.set_stream_handler("/fl-node/exchange/1", lambda stream: trio.sleep_forever())
        carol._parts.client.forget(bob.peer_id)
        assert await carol.fetch(announcement, [bob.peer_id, alice.peer_id], soon()) == b"payload"


async def test_bytes_and_latency_are_known_per_peer():
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        await until(lambda: bob.latency(alice.peer_id) is not None)
        assert bob.traffic()[alice.peer_id].bytes_in > 0
        assert bob.latency(CAROL.peer_id) is None


def test_every_verdict_has_a_word_for_the_counters():
    assert len({each.value for each in Verdict}) == len(Verdict)


async def test_a_full_disk_is_one_clear_error(tmp_path):
    payload = os.urandom(9_000_000)
    shelf = Shelf(ALICE)
    announcement = shelf.put(payload, 1)
    spool = SpoolRule(0, Path("/dev/shm/no-such-directory"))
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses(), spool=spool) as bob:
        with pytest.raises(NetworkError, match="cannot spool payloads in /dev/shm/no-such-directory"):
            await bob.fetch(announcement, [alice.peer_id], soon())


async def test_an_announcement_is_told_in_person_and_judged_before_the_answer():
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        said = announce(ALICE, 1, b"told in person")
        await alice.tell(BOB.peer_id, said)
        assert bob.announcements.receive_nowait() == said


async def test_what_is_told_in_somebody_elses_name_is_refused():
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        forged = replace(announce(CAROL, 1, b"mine"), round=2)
        with pytest.raises(PeerError, match="no announcement"):
            await alice.tell(BOB.peer_id, forged)
        assert bob.standings.refused["bad-announcement"] == 1


async def test_a_file_is_gone_on_with_where_an_earlier_call_stopped_and_a_damaged_beginning_is_nobodys_fault(tmp_path):
    payload, shelf = os.urandom(3_000_000), Shelf(ALICE)
    announcement = shelf.put(payload, 1)
    wanted, path = Content(announcement.digest, len(payload)), tmp_path / "part"
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        for beginning in (payload[:2_000_000], bytes(2_000_000), payload, b""):
            path.write_bytes(beginning)
            before = bob.traffic()[alice.peer_id].bytes_in
            await bob.fetch_to(wanted, [alice.peer_id], soon(), path)
            assert path.read_bytes() == payload
            if beginning and payload.startswith(beginning):
                assert bob.traffic()[alice.peer_id].bytes_in - before < 1_100_000
        assert bob.standings.score(alice.peer_id) >= 0
        with pytest.raises(PeerError, match="in time"):
            await bob.fetch_to(Content(bytes(32), 10), [alice.peer_id], soon(0.3), tmp_path / "other")
