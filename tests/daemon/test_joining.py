"""Where a late member begins: what the others say, and what the ledger says of those who are too busy to answer."""

from types import SimpleNamespace

import pytest
import trio

from ledger import ChainUnreachable
from node.daemon.directory import LedgerDirectory, Seat
from node.daemon.joining import HEAR_S, LONGEST_S, Joining
from node.messages import Announcement
from node.session.board import Board

SESSION = 7


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
        self.board, self.rounds, self.seconds = board, rounds, seconds

    def connected(self):
        return frozenset(self.rounds)

    async def ask(self, peer):
        with trio.move_on_after(5.0):  # as the node's own does
            await trio.sleep(self.seconds.get(peer, 0.1))
            if self.rounds[peer] is not None:
                said = Announcement(SESSION, self.rounds[peer], bytes(32), 3, "float32", peer, b"signed")
                self.board.post(said)


def late_comer(rounds, recorded, seconds=()):
    """The last of the members peer-0, peer-1, …; the others are connected."""
    seats = tuple(Seat(f"peer-{index}", f"0x{index}", True, ()) for index in range(len(rounds) + 1))
    directory = LedgerDirectory(len(rounds), seats)
    board = Board(SESSION, directory, window=4)
    said = {f"peer-{index}": round for index, round in enumerate(rounds)}
    peers = FakePeers(board, said, {f"peer-{index}": time for index, time in dict(seconds).items()})
    ledger = FakeLedger({f"0x{index}": count for index, count in enumerate(recorded)})
    prepared = SimpleNamespace(directory=directory, opened=SimpleNamespace(ledger=ledger, session_id=SESSION))
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
