import pytest
import torch

from node.learning.baselines import BASELINES

ROBUST = sorted(BASELINES)


def honest(count=6, size=20, seed=0):
    return 1.0 + 0.1 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ROBUST)
def test_equal_updates_stay_what_they_are(name):
    same = honest()[:1].repeat(5, 1)
    torch.testing.assert_close(BASELINES[name](same[0], same[1:], 1), same[0])


@pytest.mark.parametrize("name", ROBUST)
def test_one_liar_moves_the_result_little(name):
    stacked = honest()
    stacked[5] = -1000.0
    mixed = BASELINES[name](stacked[0], stacked[1:], 1)
    assert float((mixed - 1).abs().mean()) < 0.2


@pytest.mark.parametrize("name", ROBUST)
def test_the_order_of_the_others_does_not_matter(name):
    stacked = honest()
    first = BASELINES[name](stacked[0], stacked[1:], 1)
    torch.testing.assert_close(BASELINES[name](stacked[0], stacked[1:].flip(0), 1), first)


@pytest.mark.parametrize("name", ROBUST)
def test_numbers_that_are_none_do_not_spread(name):
    stacked = honest()
    stacked[5] = torch.nan
    assert bool(torch.isfinite(BASELINES[name](stacked[0], stacked[1:], 1)).all())


def test_the_trimmed_mean_drops_both_ends():
    others = torch.tensor([[0.0], [2.0], [4.0], [100.0]])
    assert float(BASELINES["trimmed_mean"](torch.tensor([3.0]), others, 1)) == 3.0
