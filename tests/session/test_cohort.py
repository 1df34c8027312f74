import hashlib

from hypothesis import given
from hypothesis import strategies as st

from node.session.cohort import draw_cohort


def test_a_cohort_is_the_members_with_the_smallest_hashes():
    def rank(other: int) -> bytes:
        return hashlib.sha256(
            b"fl-node/cohort/1"
            + (7).to_bytes(8, "big")
            + (3).to_bytes(4, "big")
            + (1).to_bytes(2, "big")
            + other.to_bytes(2, "big")
        ).digest()

    expected = sorted(sorted((o for o in range(20) if o != 1), key=rank)[:4])
    assert draw_cohort(7, 3, 1, 20, 4) == tuple(expected)


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.integers(1, 60), st.integers(1, 70), st.data())
def test_a_cohort_has_the_wanted_size_and_never_its_drawer(session_id, round, members, size, data):
    member = data.draw(st.integers(0, members - 1))
    cohort = draw_cohort(session_id, round, member, members, size)
    assert len(cohort) == len(set(cohort)) == min(size, members - 1)
    assert member not in cohort
    assert list(cohort) == sorted(cohort)


def test_cohorts_change_from_round_to_round():
    assert len({draw_cohort(1, round, 0, 30, 5) for round in range(20)}) > 15


def test_everybody_is_asked_equally_often_in_the_long_run():
    asked = [0] * 10
    for round in range(2000):
        for other in draw_cohort(9, round, 0, 10, 3):
            asked[other] += 1
    assert asked[0] == 0
    assert all(500 < count < 840 for count in asked[1:])
