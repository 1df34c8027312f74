from statistics import median_low

import pytest

from node.session.bounds import TIMES, cut_to_others


def slowly(claims):
    if len(claims) == 1:
        return claims
    return {
        member: min(claim, TIMES * median_low([other for who, other in claims.items() if who != member]))
        for member, claim in claims.items()
    }


@pytest.mark.parametrize(
    "claims",
    [
        (7,),
        (1, 2**40),
        (2**40, 2**40),
        (5, 5, 2**40),
        (5, 2**40, 2**40),
        (1, 9, 9, 200),
        (1, 1, 1, 1, 11),
        (1, 2**40, 3, 2**40, 30),
        tuple(range(1, 300, 7)),
    ],
)
def test_the_bound_is_ten_times_the_median_of_the_others(claims):
    named = dict(enumerate(claims, 1))
    assert cut_to_others(named) == slowly(named)


def test_two_that_boast_among_three_are_cut_to_the_honest_one():
    assert cut_to_others({1: 2**40, 2: 2**40, 3: 100}) == {1: 1000, 2: 1000, 3: 100}


def test_nobody_is_bounded_by_nobody():
    assert cut_to_others({}) == {}
