"""Where a late member begins: what the others say, and what the ledger says of those who are too busy to answer."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import trio

from ledger import ChainUnreachable
from node.daemon.directory import LedgerDirectory, Seat
from node.daemon.gossip_part import GossipPart
from node.daemon.joining import HEAR_S, LONGEST_S, Joining
from node.daemon.journal import Journal
from node.daemon.outside import Ears
from node.daemon.resume import Known, keep_checkpoint
from node.errors import NetworkError
from node.messages import Announcement
from node.session.board import Board

SESSION = 7
LAST = 100  # of the session's rounds


class FakeLedger:
    """Knows how many rounds each account has recorded; what it has of a member can grow."""

    def __init__(self, recorded):
        self.recorded, self.is_down = recorded, False

    def head(self, _session_id, account):
        if self.is_down:
            raise ChainUnreachable("the chain is down")
        return SimpleNamespace(next_round=self.recorded.get(account, 0) + 1)


class FakePeers:
    """Connected members, each of whom takes some seconds to say which round it announced; None: never says it."""

    def __init__(self, board, rounds, seconds):
        self.board, self.rounds, self.seconds, self.announced, self.away = board, rounds, seconds, 0, set()

    def connected(self):
        return frozenset(self.rounds) - self.away

    def own_round(self):
        return self.announced

    async def ask(self, peer):
        with trio.move_on_after(5.0):  # as the node's own does
            await trio.sleep(self.seconds.get(peer, 0.1))
            self.says(peer)

    def says(self, peer):
        if self.rounds[peer] is not None:
            self.board.post(Announcement(SESSION, self.rounds[peer], bytes(32), 3, "float32", peer, b"signed"))


def late_comer(rounds, recorded, seconds=(), away=()):
    """The last of the members peer-0, peer-1, …; the others are connected, but for those that are away."""
    seats = tuple(Seat(f"peer-{index}", f"0x{index}", True, ()) for index in range(len(rounds) + 1))
    directory = LedgerDirectory(len(rounds), seats)
    board = Board(SESSION, directory, window=4)
    said = {f"peer-{index}": round for index, round in enumerate(rounds)}
    peers = FakePeers(board, said, {f"peer-{index}": time for index, time in dict(seconds).items()})
    peers.away = {f"peer-{index}" for index in away}
    ledger = FakeLedger({f"0x{index}": count for index, count in enumerate(recorded)})
    opened = SimpleNamespace(ledger=ledger, session_id=SESSION, session=SimpleNamespace(rounds=LAST))
    prepared = SimpleNamespace(directory=directory, opened=opened)
    return Joining(prepared, None, None, peers, board, print), ledger


async def test_it_begins_where_half_of_the_others_are(autojump_clock):
    joining, _ = late_comer([9, 4, 10], [8, 3, 9])
    assert await joining.position() == 9
    assert trio.current_time() < 1


async def test_a_new_session_begins_with_round_1(autojump_clock):
    joining, _ = late_comer([None, None], [])
    assert await joining.position() == 0
    assert trio.current_time() <= HEAR_S + 1


async def test_members_that_are_too_busy_to_answer_at_once_are_asked_on(autojump_clock):
    joining, _ = late_comer([30, 31, 32], [28, 29, 29])
    joining.peers.seconds = {f"peer-{index}": 20.0 for index in range(3)}
    async with trio.open_nursery() as nursery:

        async def load_ends():
            await trio.sleep(25)
            joining.peers.seconds.clear()

        nursery.start_soon(load_ends)
        assert await joining.position() == 31
    assert 25 < trio.current_time() < 35


async def test_the_ledger_counts_where_nobody_ever_answers(autojump_clock):
    joining, _ = late_comer([None, None, None], [28, 29, 30])
    assert await joining.position() == 29
    assert trio.current_time() <= LONGEST_S + 1


async def test_one_silent_member_does_not_keep_it_waiting(autojump_clock):
    joining, _ = late_comer([30, None, 31], [29, 29, 30])
    assert await joining.position() == 30
    assert trio.current_time() <= HEAR_S + 1


@pytest.mark.parametrize(("rounds", "position"), [([30, 31], 30), ([None, None], 0)])
async def test_without_the_ledger_only_the_others_say_it(autojump_clock, rounds, position):
    joining, ledger = late_comer(rounds, [29, 29])
    ledger.is_down = True
    assert await joining.position() == position
    assert trio.current_time() <= HEAR_S + 1


@pytest.mark.parametrize("lie", [LAST, LAST + 1, 2**31 - 1])
async def test_at_a_sessions_start_one_liar_carries_nobody_away(autojump_clock, lie):
    joining, _ = late_comer([None] * 9 + [lie], [])
    assert await joining.position() == 0


@pytest.mark.parametrize("lie", [LAST, LAST + 1, 2**31 - 2])
async def test_neither_does_a_record_of_one_alone(autojump_clock, lie):
    joining, _ = late_comer([None] * 9, [0] * 8 + [lie])
    assert await joining.position() == 0


async def test_members_that_say_nothing_count_so_that_fewer_than_half_carry_nobody_away(autojump_clock):
    joining, _ = late_comer([LAST] * 5 + [None] * 5, [])
    assert await joining.position() == 0
    joining, _ = late_comer([LAST] * 6 + [None] * 5, [])
    assert await joining.position() == LAST


async def test_rounds_that_the_session_does_not_have_are_no_rounds(autojump_clock):
    joining, _ = late_comer([30, 31, LAST + 1], [29, 30, 2**31 - 2])
    assert await joining.position() == 30


async def test_of_two_members_the_other_is_believed_as_far_as_the_session_goes(autojump_clock):
    assert await late_comer([9], [8])[0].position() == 9
    assert await late_comer([LAST + 1], [LAST + 1])[0].position() == 0


async def test_one_connected_member_of_many_is_believed_as_far_as_another_ones_records_go(autojump_clock):
    joining, ledger = late_comer([50, 45, None], [49, 44, 0], away=[1, 2])
    assert await joining.position() == 44
    ledger.recorded.clear()
    assert await joining.position() == 0


async def test_or_as_another_ones_announcements_that_it_hands_on(autojump_clock):
    joining, _ = late_comer([50, 45, None], [], away=[1, 2], seconds={0: 1.0})
    async with trio.open_nursery() as nursery:

        async def hand_on():
            await trio.sleep(2)
            joining.peers.says("peer-1")

        nursery.start_soon(hand_on)
        assert await joining.position() == 45
    assert trio.current_time() < 3


async def test_where_another_one_has_nothing_to_say_a_busy_member_is_waited_for_and_no_longer(autojump_clock):
    joining, _ = late_comer([50, None], [49, 0], away=[1], seconds={0: 20.0})

    async def load_ends():
        await trio.sleep(25)
        joining.peers.seconds.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_ends)
        assert await joining.position() == 0
    assert 25 < trio.current_time() < 35


async def test_of_very_many_members_some_are_asked_and_that_will_do(autojump_clock):
    joining, _ = late_comer([None] * 150, [30] * 150)
    assert await joining.position() == 30


async def test_of_snapshots_those_of_rounds_that_the_session_does_not_have_are_no_candidates(
    autojump_clock, monkeypatch
):
    joining, _ = late_comer([30, 31], [])
    joining.prepared.opened.session.cohort = 3
    recorded = [Known(0, LAST + 1, "bogus", bytes(32)), Known(1, 31, "one", bytes(32)), Known(0, 30, "two", bytes(32))]
    monkeypatch.setattr("node.daemon.joining.History", lambda *_: nullcontext())
    monkeypatch.setattr("node.daemon.joining.known_snapshots", lambda _: recorded)
    assert [one.cid for one in await joining._candidates()] == ["one", "two"]


class FakeLearner:
    """A learner whose state is a few bytes; every start finds the session's initial parameters."""

    def __init__(self):
        self.paid, self.flat, self.earlier = [], b"initial", None
        spending = SimpleNamespace(catch_up=lambda *missed: self.paid.append(missed))
        self.private = SimpleNamespace(spending=spending, way=SimpleNamespace(release="a round's"))

    def checkpoint(self):
        return b"state"

    def checkpoint_pieces(self):
        return [b"state"]

    def restore(self, _checkpoint):
        pass

    def measure(self):
        return {"validation_loss": 1.0}

    async def run(self, work, *arguments):
        return work(*arguments)


def begun(tmp_path, rounds, announced=0, resumed=False, quorum_s=1.0):
    """A member's part as at a start of its node, its journal, its learner, and what it tells."""
    joining, ledger = late_comer(rounds, [])
    joining.peers.announced = announced
    learner, told = FakeLearner(), []
    limits = SimpleNamespace(staleness=4, round_deadline_s=5.0)
    session = SimpleNamespace(
        rounds=50, quorum=9, cohort=3, codec="float32", snapshot_every=1, limits=limits, coordinated=None
    )
    opened = SimpleNamespace(ledger=ledger, session=session, session_id=SESSION)
    prepared = SimpleNamespace(
        directory=joining.prepared.directory, opened=opened, learner=learner, initial_matches=True, held={}
    )
    journal = Journal(tmp_path, keep=6)
    outside = SimpleNamespace(
        settings=SimpleNamespace(quorum_s=quorum_s),
        prepared=prepared,
        peers=joining.peers,
        records=None,
        journal=journal,
        ipfs=None,
        snapshots=None,
        board=joining.board,
        resumed=resumed,
    )
    return GossipPart(outside, Ears(lambda _event, _value: None, told.append)), journal, learner, told


async def test_who_has_promised_nothing_waits_for_the_quorum(autojump_clock, tmp_path):
    part, _, _, _ = begun(tmp_path, [None])
    with pytest.raises(NetworkError, match="fewer than 9 members"):
        await part.begin()


async def test_at_a_sessions_start_a_liar_does_not_end_it_for_the_others(autojump_clock, tmp_path, monkeypatch):
    part, journal, _, told = begun(tmp_path, [None] * 9 + [2**31 - 1])

    async def quorum(*_):
        pass

    monkeypatch.setattr("node.daemon.gossip_part.gather_quorum", quorum)
    await part.begin()
    assert (part.finished, journal.checkpoint(), told) == (0, None, [])


@pytest.mark.parametrize("said", [[None] * 9 + [2**31 - 1], [50, None, None], [None, None]])
async def test_after_a_loss_what_it_announced_itself_is_left_out_whatever_one_other_says(
    autojump_clock, tmp_path, said
):
    part, journal, _, told = begun(tmp_path, said, announced=3, resumed=True)
    journal.begin_loss()
    await keep_checkpoint(journal, 2, b"state")
    await part.begin()
    assert (part.finished, journal.checkpoint().round, journal.in_loss()) == (3, 3, False)
    assert "rounds 3 to 3 are left out" in told[-1]


async def test_killed_in_its_first_round_a_member_needs_no_quorum_and_keeps_that_round(autojump_clock, tmp_path):
    part, journal, learner, _ = begun(tmp_path, [None], announced=1)
    journal.save_update(1, b"update", b"\x01" * 32)
    await part.begin()
    assert (part.finished, journal.checkpoint(), learner.paid) == (0, None, [])


async def test_a_loss_in_the_first_round_is_dealt_with_too(autojump_clock, tmp_path):
    part, journal, _, told = begun(tmp_path, [2], announced=3, resumed=True)
    journal.begin_loss()
    journal.save_update(1, b"trained again", b"\x01" * 32)
    await part.begin()
    assert (part.finished, journal.checkpoint().round, journal.in_loss()) == (3, 3, False)
    assert "rounds 1 to 3 are left out" in told[-1]


async def test_what_an_empty_disk_announced_without_a_record_is_not_announced_again(
    autojump_clock, tmp_path, monkeypatch
):
    part, journal, learner, told = begun(tmp_path, [2], announced=3)

    async def quorum(*_):
        pass

    async def none(*_):
        return ()

    monkeypatch.setattr("node.daemon.gossip_part.gather_quorum", quorum)
    monkeypatch.setattr(Joining, "_candidates", none)
    await part.begin()
    assert (part.finished, journal.checkpoint().round) == (3, 3)
    assert told[0] == "this node announced rounds up to 3 before it lost its disk: they are left out"
    assert learner.paid == [(3, "a round's")]
