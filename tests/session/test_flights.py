"""Tests of node.session.flights."""

import pytest
import trio

from node.errors import NetworkError
from node.messages import Announcement
from node.session.flights import Flights


def announced(round, digest=b"d"):
    return Announcement(7, round, digest * 32, 6, "float32", "carol", b"s" * 64)


class Link:
    """Takes ten seconds for what is asked of it."""

    def __init__(self, path=None):
        self.path, self.asked, self.cut = path, [], []

    async def __call__(self, _member, announcement):
        self.asked.append(announcement.round)
        try:
            await trio.sleep(10)
        except trio.Cancelled:
            self.cut.append(announcement.round)
            raise
        if self.path is None:
            return b"update"
        self.path.write_bytes(b"update")
        return self.path


async def begun(nursery, link):
    flights = Flights(link)
    nursery.start_soon(flights.run)
    await trio.testing.wait_all_tasks_blocked()
    return flights


async def waited(flights, seconds, announcement):
    with trio.move_on_after(seconds):
        return await flights.bring(2, announcement)
    return "cut off"


async def test_who_stops_waiting_finds_it_there_later(nursery, autojump_clock):
    link = Link()
    flights = await begun(nursery, link)
    assert await waited(flights, 4, announced(1)) == "cut off"
    assert flights.under_way(2) == announced(1)
    assert await waited(flights, 7, announced(1)) == b"update"
    assert await waited(flights, 1, announced(1)) == b"update"  # until it is collected
    flights.collected(2)
    assert flights.under_way(2) is None
    assert link.asked == [1]


async def test_another_update_of_the_member_ends_the_one_before(nursery, autojump_clock):
    link = Link()
    flights = await begun(nursery, link)
    await waited(flights, 4, announced(1))
    assert await waited(flights, 11, announced(2, b"e")) == b"update"
    assert (link.asked, link.cut) == ([1, 2], [1])


async def test_what_is_not_wanted_any_more_ends_and_its_file_goes(nursery, autojump_clock, tmp_path):
    link = Link(tmp_path / "payload")
    flights = await begun(nursery, link)
    await waited(flights, 4, announced(1))
    await trio.sleep(7)
    assert link.path.exists()
    flights.keep_only(lambda announcement: announcement.round > 1)
    assert not link.path.exists()
    assert flights.under_way(2) is None


async def test_a_fault_of_ours_reaches_who_waits_and_nobody_else(nursery, autojump_clock):
    async def broken(_member, _announcement):
        await trio.sleep(1)
        raise NetworkError("no space")

    flights = await begun(nursery, broken)
    await waited(flights, 0.5, announced(1))
    await trio.sleep(5)  # nothing ends by it
    with pytest.raises(NetworkError, match="no space"):
        await flights.bring(2, announced(1))
    assert flights.under_way(2) is None


async def test_at_the_end_nothing_is_left(autojump_clock, tmp_path):
    link = Link(tmp_path / "payload")
    async with trio.open_nursery() as nursery:
        flights = await begun(nursery, link)
        await waited(flights, 4, announced(1))
        nursery.cancel_scope.cancel()
    assert link.cut == [1]
    assert await flights.bring(2, announced(1)) == link.path  # without `run`, the caller waits for it all


async def test_what_came_and_was_not_collected_is_removed_at_the_end(autojump_clock, tmp_path):
    link = Link(tmp_path / "payload")
    async with trio.open_nursery() as nursery:
        flights = await begun(nursery, link)
        await waited(flights, 4, announced(1))
        await trio.sleep(7)
        assert link.path.exists()
        nursery.cancel_scope.cancel()
    assert not link.path.exists()
