"""Who is to blame for an update that does not come as announced: never who did not announce it."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from node.daemon.ports import NetworkPeers
from node.errors import AnnouncementError
from node.messages import announcement_bytes
from node.network import exchange
from node.network.fetching import FetchTimes
from node.network.serving import ExchangeServer
from node.network.wire_pb2 import Header, Reply
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from tests.network.members import SESSION, Shelf, announce, identity, meet, member
from tests.session.fakes import FakeDirectory, FakeLearner

pytestmark = pytest.mark.real

ALICE, BOB, CAROL = (identity(name) for name in ("alice", "bob", "carol"))
UPDATE = b"an update of alice" * 100


class Gone(Shelf):
    """What it has is not there for the first `hiccups` questions."""

    hiccups = 0

    def open(self, digest):
        self.opened += 1
        return None if self.opened <= self.hiccups else self.payloads.get(digest)


def claim(who, announcement, size):
    """`who` announces the same hash with a size of its own."""
    signature = who.sign(announcement_bytes(SESSION, announcement.round, announcement.digest, size, "float32"))
    return replace(announcement, size=size, peer_id=who.peer_id, signature=signature)


def gatherer(network, announcement):
    """Carol's gathering; she has seen one announcement."""
    directory = FakeDirectory([ALICE.peer_id, BOB.peer_id, CAROL.peer_id], 2)
    board = Board(SESSION, directory, window=4)
    board.post(announcement)
    return Gatherer(NetworkPeers(network, CAROL), directory, board, FakeLearner(2), 2, AdaptiveDeadline(12.0))


@asynccontextmanager
async def three(shelf, others=None, **changes):
    async with (
        member("alice", shelf=shelf) as alice,
        member("bob", alice.addresses(), shelf=others) as bob,
        member("carol", alice.addresses() + bob.addresses(), **changes) as carol,
    ):
        await meet(alice, bob, carol)
        yield carol


async def test_nobody_is_blamed_for_a_size_that_another_announced(monkeypatch):
    monkeypatch.setattr(exchange, "CONTRADICTED_S", 0.2)
    shelf = Shelf(ALICE)
    good = shelf.put(UPDATE, 1)
    async with three(shelf) as carol:
        with trio.fail_after(10):  # not the deadline of the round
            assert await gatherer(carol, claim(BOB, good, good.size + 1)).gather(1, [1]) == []
        assert carol.standings.scores() == {}
        assert carol.standings.refused["wrong-size"] == 1
        assert [one.payload for one in await gatherer(carol, good).gather(1, [0])] == [UPDATE]


async def test_an_announcer_is_blamed_for_a_size_that_its_verified_bytes_contradict():
    shelf = Shelf(ALICE)
    good = shelf.put(UPDATE, 1)
    async with three(shelf) as carol:
        assert await gatherer(carol, good).gather(1, [0])
        assert await gatherer(carol, claim(BOB, good, good.size - 1)).gather(1, [1]) == []
        assert carol.standings.refused == {"wrong-size": 1}
        assert set(carol.standings.scores()) == {BOB.peer_id}


async def test_an_announcer_is_blamed_for_a_size_that_it_contradicts_itself():
    shelf = Shelf(ALICE)
    good = shelf.put(UPDATE, 1)
    async with three(shelf) as carol:
        with pytest.raises(AnnouncementError, match="left out"):
            await carol.fetch(claim(ALICE, good, 7), [ALICE.peer_id], trio.current_time() + 10)
        assert carol.standings.scores().keys() == {ALICE.peer_id}


async def test_a_holder_that_lies_about_the_size_does_not_cost_an_honest_update():
    shelf, lies = Gone(ALICE), Shelf(BOB)
    shelf.hiccups = 4
    good = shelf.put(UPDATE, 1)
    lies.payloads[good.digest] = UPDATE + b"!"
    async with three(shelf, lies) as carol:
        assert [one.payload for one in await gatherer(carol, good).gather(1, [0])] == [UPDATE]
        assert carol.standings.scores() == {}


async def test_no_holder_is_blamed_for_a_size_that_a_payload_names(monkeypatch):
    monkeypatch.setattr(exchange, "CONTRADICTED_S", 0.2)

    class Builds:
        """Bob's update names an earlier one with a wrong size."""

        async def complete(self, _member, _payload, fetch):
            return await fetch(good.digest, good.size + 1) is not None

        async def settle(self, _member, _payload):
            await trio.lowlevel.checkpoint()

    shelf, others = Shelf(ALICE), Shelf(BOB)
    good, building = shelf.put(UPDATE, 1), others.put(b"an update that builds on another", 2)
    async with three(shelf, others) as carol:
        gathering = gatherer(carol, building)
        gathering.earlier = Builds()
        with trio.fail_after(12):
            assert await gathering.gather(2, [1]) == []
        assert carol.standings.score(ALICE.peer_id) == 0


async def test_an_announcer_that_hiccups_once_is_asked_again_before_others_are():
    shelf, others = Gone(ALICE), Shelf(BOB)
    shelf.hiccups = 1
    good = shelf.put(UPDATE, 1)
    async with three(shelf, others) as carol:
        assert await gatherer(carol, good).gather(1, [0])
        assert (shelf.opened, others.opened) == (2, 0)


async def test_a_holder_that_drips_is_left_for_the_announcer(monkeypatch):
    shelf, drips = Gone(ALICE), Shelf(BOB)
    shelf.hiccups = 2
    good = shelf.put(UPDATE, 1)
    drips.payloads[good.digest] = bytes(good.size)
    send = ExchangeServer._send_bytes

    async def drip(self, frames, payload, offset):
        if self.payloads is not drips:
            return await send(self, frames, payload, offset)
        await self._reply(frames, Reply(header=Header(size=good.size)))
        while True:
            await self._chunk(frames, memoryview(b"x"))
            await trio.sleep(0.1)

    monkeypatch.setattr(ExchangeServer, "_send_bytes", drip)
    async with three(shelf, drips, fetch_times=FetchTimes(behind=0.5)) as carol:
        started = trio.current_time()
        assert [one.payload for one in await gatherer(carol, good).gather(1, [0])] == [UPDATE]
        assert trio.current_time() - started < 5
        assert carol.standings.refused == {"too-slow": 1}
        assert drips.opened == 1
        assert carol.standings.scores() == {}
        assert shelf.opened == 4  # twice gone, once to go on after the drops, once for all of it


async def test_a_holder_that_keeps_the_rate_gives_all_of_it():
    shelf, others = Gone(ALICE), Shelf(BOB)
    shelf.hiccups = 99
    big = bytes(3 << 20)
    good = announce(ALICE, 1, big)
    others.payloads[good.digest] = big
    async with three(shelf, others, fetch_times=FetchTimes(behind=2.0, rate=64 << 10)) as carol:
        assert [one.payload for one in await gatherer(carol, good).gather(1, [0])] == [big]
        assert not carol.standings.refused
