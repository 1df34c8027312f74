from types import SimpleNamespace

import pytest

from node.session.pace import Pace
from tests.session.fakes import FakeDirectory

NAMES = ["alice", "bob", "carol", "dave"]


class Others:
    """Where the others are, as peers and as board at once."""

    def __init__(self, *rounds):
        self.here = frozenset(NAMES[1:])
        self.rounds = dict(zip(range(1, 4), rounds, strict=False))

    def connected(self):
        return self.here

    def newest(self, member):
        return SimpleNamespace(round=self.rounds[member]) if member in self.rounds else None

    def go_to(self, round):
        self.rounds = dict.fromkeys(range(1, 4), round)


def pace_among(others, names=NAMES):
    return Pace(others, FakeDirectory(names, 0), others, staleness=2)


def go(pace, others, *looks, last=1000):
    """The rounds that it goes on with, when the others are in these rounds at its looks; it takes each of them."""
    taken, round = [], 1
    for where in looks:
        others.go_to(where)
        round = pace.next_round(round, last)
        taken.append(round)
        round += 1
    return taken


def test_who_keeps_up_leaves_nothing_out():
    others = Others()
    assert go(pace_among(others), others, 0, 1, 3, 4, 7, 7, 8) == [1, 2, 3, 4, 5, 6, 7]


def test_who_stood_still_once_catches_up_by_itself():
    others = Others()
    assert go(pace_among(others), others, 0, 6, 6, 6, 7, 7, 7) == [1, 2, 3, 4, 5, 6, 7]


def test_who_is_outrun_goes_on_in_the_round_of_the_others():
    others = Others()
    assert go(pace_among(others), others, 0, 3, 6, 9) == [1, 2, 3, 10]


def test_who_is_so_far_behind_that_it_would_take_long_does_not_train_for_nobody():
    others = Others()
    assert go(pace_among(others), others, 0, 500, 500)[-1] == 501


def test_a_slow_member_trains_the_round_in_which_the_others_will_be():
    others, taken, round = Others(), [], 1
    pace = pace_among(others)
    for look in range(12):
        others.go_to(5 * look)
        round = pace.next_round(round, 1000)
        taken.append(round)
        others.go_to(5 * (look + 1))
        pace.announced()
        round += 1
    assert taken[:2] == [1, 2]
    assert taken[2:] == [5 * (look + 1) for look in range(2, 12)]  # announced just when the others are there


def test_one_long_stop_does_not_carry_it_ahead_of_the_others():
    others = Others()
    pace = pace_among(others)
    others.go_to(10)
    pace.next_round(10, 1000)
    others.go_to(70)  # stopped for a minute
    pace.announced()
    pace.next_round(11, 1000)
    others.go_to(71)
    pace.announced()
    assert pace.next_round(12, 1000) == 72


def test_the_last_round_is_never_passed():
    others = Others()
    assert go(pace_among(others), others, 0, 10, 20, 20, last=20) == [1, 2, 20, 21]


@pytest.mark.parametrize("rounds", [(10**6,), (10**6, 3, 3), (10**6, 3)])
def test_one_voice_alone_carries_nobody_away(rounds):
    others = Others(*rounds)
    pace = pace_among(others)
    assert [pace.next_round(3, 10**7) for _ in range(3)] == [3, 3, 3]


def test_two_voices_of_many_that_were_heard_carry_nobody_away():
    names = [f"member {number}" for number in range(8)]
    others = Others()
    others.rounds = {**dict.fromkeys(range(3, 8), 5), 1: 10**6, 2: 10**6}
    pace = pace_among(others, names)
    others.here = frozenset(names[1:3])
    assert [pace.next_round(5, 10**7) for _ in range(3)] == [5, 5, 5]
    others.here = frozenset(names[1:])
    assert [pace.next_round(5, 10**7) for _ in range(3)] == [5, 5, 5]


def test_of_two_members_the_other_is_believed():
    others = Others(9)
    pace = pace_among(others, NAMES[:2])
    others.here = frozenset(["bob"])
    assert [pace.next_round(3, 100), pace.next_round(4, 100)] == [3, 10]


def test_who_is_not_connected_and_who_is_no_member_say_nothing():
    others = Others(9, 9, 9)
    pace = pace_among(others)
    others.here = frozenset(["bob", "a stranger"])
    assert pace.others() == 0
