import numpy as np
import pytest
import torch

from node.learning.baselines import BASELINES, data_size_row, fedfomo_row, metropolis_row

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


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("number", [1e30, -3e38, 1e16])
def test_huge_numbers_do_not_spread(name, number):
    stacked = honest()
    stacked[5] = number
    mixed = BASELINES[name](stacked[0], stacked[1:], 1)
    assert float((mixed - 1).abs().mean()) < 0.2


@pytest.mark.parametrize("name", ROBUST)
def test_who_is_alone_keeps_its_own(name):
    own = honest()[0]
    torch.testing.assert_close(BASELINES[name](own, own.new_empty(0, len(own)), 1), own)


@pytest.mark.parametrize("name", ROBUST)
def test_rules_are_mapped_as_they_are(name):
    cohorts = torch.stack([honest(seed=seed) for seed in range(3)])
    mapped = torch.func.vmap(lambda own, others: BASELINES[name](own, others, 1))(cohorts[:, 0], cohorts[:, 1:])
    torch.testing.assert_close(mapped, torch.stack([BASELINES[name](each[0], each[1:], 1) for each in cohorts]))


def test_rows_are_mapped_as_they_are():
    improvements, distances = torch.tensor([[-1.0, 2.0, 1.0], [-1.0, -2.0, -3.0]]), torch.ones(2, 3)
    rows = torch.func.vmap(lambda *known: fedfomo_row(0, *known))(improvements, distances)
    torch.testing.assert_close(rows, torch.tensor([[0.0, 2 / 3, 1 / 3], [1.0, 0.0, 0.0]]))
    degrees = torch.tensor([[2.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
    rows = torch.func.vmap(lambda known: metropolis_row(0, known))(degrees)
    torch.testing.assert_close(rows, torch.stack([metropolis_row(0, each) for each in degrees]))


def test_the_trimmed_mean_drops_both_ends():
    others = torch.tensor([[0.0], [2.0], [4.0], [100.0]])
    assert float(BASELINES["trimmed_mean"](torch.tensor([3.0]), others, 1)) == 3.0


def krum_scores(stacked, faulty):
    """Blanchard et al.: the sum of squared distances to the n − f − 2 nearest others."""
    scores = []
    for i, one in enumerate(stacked):
        squared = sorted(float((one - other).square().sum()) for j, other in enumerate(stacked) if j != i)
        scores.append(sum(squared[: len(stacked) - faulty - 2]))
    return scores


@pytest.mark.parametrize(("seed", "faulty"), [(0, 1), (1, 2), (2, 2), (3, 1)])
def test_krum_is_the_update_of_the_definition_and_multi_krum_the_mean_of_the_best(seed, faulty):
    stacked = honest(count=7, seed=seed)
    scores = krum_scores(stacked, faulty)
    order = sorted(range(7), key=lambda i: scores[i])
    torch.testing.assert_close(BASELINES["krum"](stacked[0], stacked[1:], faulty), stacked[order[0]])
    best = stacked[order[: 7 - faulty]].mean(dim=0)
    torch.testing.assert_close(BASELINES["multi_krum"](stacked[0], stacked[1:], faulty), best)


@pytest.mark.parametrize("name", ["krum", "multi_krum"])
def test_where_krum_is_told_of_more_than_it_is_made_for_two_colluders_are_not_nearest(name):
    honest = torch.eye(5)[:4]  # squared distances of 2
    colluder = 2.5**0.5 * torch.eye(5)[4:]  # and of 3.5 to each of them
    stacked = torch.cat([honest, colluder, colluder])
    assert float(BASELINES[name](stacked[0], stacked[1:], 2)[4]) == 0.0


def test_who_has_only_attackers_around_clips_them_to_nothing():
    own, others = torch.zeros(2), torch.ones(2, 2)
    assert BASELINES["clipping"](own, others, 2).equal(own)
    assert BASELINES["clipping"](own, others[:0], 0).equal(own)


def test_no_step_from_the_geometric_median_makes_the_sum_of_distances_less():
    stacked = honest(count=5, size=3)
    centre = BASELINES["geometric_median"](stacked[0], stacked[1:], 1)

    def total(point):
        return float(torch.linalg.vector_norm(stacked - point, dim=1).sum())

    for step in torch.cat([torch.eye(3), -torch.eye(3)]):
        assert total(centre + 0.02 * step) > total(centre)
    assert total(centre) < total(stacked.mean(dim=0))


def test_the_median_is_numpys():
    for count in (4, 5):
        stacked = honest(count=count)
        expected = torch.from_numpy(np.median(stacked.numpy(), axis=0))
        torch.testing.assert_close(BASELINES["median"](stacked[0], stacked[1:], 1), expected)


def test_clipping_moves_us_by_whole_differences_but_the_farthest_which_is_shortened():
    own, others = torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -40.0]])
    found = BASELINES["clipping"](own, others, 1)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0 - 2.0]) / 4)
    torch.testing.assert_close(BASELINES["clipping"](own, others, 0), others.sum(dim=0) / 4)


def test_the_data_size_row_is_in_proportion():
    torch.testing.assert_close(data_size_row(torch.tensor([1.0, 3.0, 4.0])), torch.tensor([0.125, 0.375, 0.5]))


def test_metropolis_weighs_by_the_larger_degree_and_keeps_the_rest():
    found = metropolis_row(1, torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(found, torch.tensor([1 / 3, 1 - 1 / 3 - 1 / 5, 1 / 5]))


def test_fedfomo_weighs_the_loss_that_is_saved_by_the_distance_to_it():
    found = fedfomo_row(0, torch.tensor([0.4, 0.3, -5.0, torch.nan]), torch.tensor([2.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.4, 0.6, 0.0, 0.0]))
    assert fedfomo_row(1, torch.tensor([-1.0, -1.0]), torch.ones(2)).tolist() == [0.0, 1.0]
