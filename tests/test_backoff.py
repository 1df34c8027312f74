"""Tests of node.backoff."""

import random
from itertools import islice

import pytest

from node.backoff import FIRST_S, LONGEST_S, pause_after, pauses


class Middle(random.Random):
    """Draws the middle of each range."""

    def uniform(self, a, b):
        return (a + b) / 2


def test_pauses_double_up_to_a_bound():
    waited = list(islice(pauses(Middle()), 8))
    assert waited == pytest.approx([FIRST_S * 2**n for n in range(5)] + [LONGEST_S] * 3)


def test_no_two_wait_alike():
    first, second = (list(islice(pauses(random.Random(seed)), 6)) for seed in (1, 2))
    assert not set(first) & set(second)
    assert all(0.5 * FIRST_S <= pause <= 1.5 * LONGEST_S for pause in first + second)


def test_what_fails_for_ever_is_tried_again_at_the_bound():
    assert [pause_after(failures, 3.0, 600.0) for failures in (1, 2, 3, 9, 10**6)] == [3.0, 6.0, 12.0, 600.0, 600.0]
