"""Who is asked for an update, and what is held for others."""

from collections import Counter
from types import SimpleNamespace

import trio

from node.messages import Announcement
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.gather import ELSEWHERE, Gatherer
from node.session.ports import Contribution, NothingEarlier
from tests.session.fakes import Bus, Disk, FakeDirectory, FakeLearner, FakePeers, sha256

NAMES = [f"peer {number}" for number in range(24)]


def gatherer(own):
    bus = Bus(dict.fromkeys(NAMES))
    directory = FakeDirectory(NAMES, own)
    board = Board(7, directory, window=3)
    return Gatherer(FakePeers(bus, NAMES[own]), directory, board, FakeLearner(own), 2, AdaptiveDeadline(30.0))


def test_askers_ask_different_holders_and_others_at_each_attempt():
    announcement = Announcement(7, 1, b"d" * 32, 6, "float32", NAMES[0], b"s" * 64)
    asked = Counter()
    for own in range(1, len(NAMES)):
        gathering = gatherer(own)
        attempts = [gathering._elsewhere(announcement, attempt) for attempt in range(3)]
        assert all(len(set(each)) == ELSEWHERE for each in attempts)
        assert not {NAMES[0], NAMES[own]} & {peer for each in attempts for peer in each}
        assert gathering._elsewhere(announcement, 0) == attempts[0]
        assert len({tuple(each) for each in attempts}) > 1
        asked.update(attempts[0])
    assert len(asked) > 12
    assert max(asked.values()) < 10


def test_of_two_members_with_the_same_bytes_one_is_enough_to_hold_them(tmp_path):
    gathering = gatherer(0)
    paths = [tmp_path / name for name in ("first", "second", "third")]
    for path in paths:
        path.write_bytes(b"update")
    same, other = b"s" * 32, b"o" * 32
    gathering._keep(Contribution(1, 1, paths[0]), same)
    gathering._keep(Contribution(2, 1, paths[1]), same)
    gathering._keep(Contribution(2, 2, paths[2]), other)
    assert gathering.holding == {same: paths[0], other: paths[2]}
    assert [path.exists() for path in paths] == [True, False, True]
    gathering._keep(Contribution(1, 2, b"update"), other)
    assert gathering.holding == {other: b"update"}


class Kept(NothingEarlier):
    """Notes what was fetched for whom, and what of it was forgotten."""

    def __init__(self):
        self.fetched, self.forgotten = [], []

    async def complete(self, member, payload, fetch):
        self.fetched.append(member)
        await trio.sleep_forever()  # the next payload of the chain never comes

    async def settle(self, member, payload):
        if payload is None:
            self.forgotten.append(member)


async def test_what_was_fetched_for_an_update_that_came_too_late_is_forgotten(autojump_clock, nursery):
    gathering, liar = gatherer(0), Disk()
    gathering.earlier = kept = Kept()
    gathering.peers.bus.members[NAMES[1]] = SimpleNamespace(disk=liar)
    nursery.start_soon(gathering.flights.run)
    for round in (1, 4, 7):
        payload = b"update %d" % round
        liar.payloads[sha256(payload)] = payload
        announcement = Announcement(7, round, sha256(payload), len(payload), "float32", NAMES[1], b"s" * 64)
        gathering.board.post(announcement)
        kept.forgotten.clear()
        assert await gathering.gather(round, [1]) == []
        assert 1 in kept.forgotten
    assert kept.fetched.count(1) >= 3
