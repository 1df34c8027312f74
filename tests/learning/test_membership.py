from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn

from node.learning.membership import example_losses, leak, loss_scores, random_halves, shadow_scores
from node.learning.privacy import Mechanism, PrivatePlan, private_train
from node.learning.secret_noise import SecretNoise
from node.learning.task import Examples, LocalSplit, Task, prepare
from node.learning.trainer import Plan, evaluate, train

NORMAL = NormalDist()


def generator(seed=0):
    return np.random.default_rng(seed)


def scores(shift, seed, count=4000):
    random = generator(seed)
    return random.normal(shift, 1, count), random.normal(0, 1, count)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_leak_is_what_it_is_for_normal_scores(shift):
    found = leak(*scores(shift, 1, 20_000), generator())
    assert found.auc == pytest.approx(NORMAL.cdf(shift / 2**0.5), abs=0.01)
    assert found.advantage == pytest.approx(2 * NORMAL.cdf(shift / 2) - 1, abs=0.02)
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]


def test_the_intervals_hold_the_truth_nineteen_times_in_twenty():
    auc = NORMAL.cdf(0.3 / 2**0.5)
    found = [leak(*scores(0.3, seed, 500), generator(seed)) for seed in range(200)]
    held = sum(f.auc_interval[0] <= auc <= f.auc_interval[1] for f in found)
    assert 180 <= held <= 199


def test_guessing_is_not_flattered_by_the_choice_of_the_threshold():
    found = [leak(*scores(0.0, seed, 300), generator(seed)).advantage for seed in range(200)]
    assert abs(np.mean(found)) < 0.01


def test_scores_that_separate_give_everything_away():
    found = leak(np.arange(10.0, 20), np.arange(10.0), generator())
    assert (found.advantage, found.auc) == (pytest.approx(1.0, abs=0.21), 1.0)


def test_scores_that_are_all_the_same_give_nothing_away():
    found = leak(np.zeros(10), np.zeros(12), generator())
    assert (found.advantage, found.auc, found.auc_interval) == (0.0, 0.5, (0.5, 0.5))


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        leak(np.zeros(1), np.zeros(5), generator())


def test_every_example_is_in_half_of_the_shadow_models():
    inside = random_halves(101, 8, generator())
    assert (inside.sum(axis=0) == 4).all()
    with pytest.raises(ValueError, match="even"):
        random_halves(10, 3, generator())


def test_an_example_without_both_kinds_of_shadow_models_is_refused():
    with pytest.raises(ValueError, match="in all shadow models or in none"):
        shadow_scores(np.ones(2), np.ones((2, 2)), np.array([[True, True], [True, False]]))


def test_losses_are_those_of_each_example_alone():
    learner = prepare(TASK)
    losses = example_losses(learner, learner.initial(), OTHERS)
    assert losses.shape == (len(OTHERS),)
    assert losses.mean() == pytest.approx(evaluate(learner, learner.initial(), OTHERS)["loss"], rel=1e-5)


def noisy(count, seed):
    """Labels are mostly chance, so that a model can only remember them."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 20, generator=random)
    return Examples(inputs, (inputs[:, 0] + 2 * torch.randn(count, generator=random) > 0).long())


MEMBERS, OTHERS = noisy(100, 1), noisy(100, 2)
TASK = Task(
    "noise",
    lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2)),
    lambda share: LocalSplit(MEMBERS, OTHERS, OTHERS),
    classes=2,
    learning_rate=0.5,
    batch_size=50,
)
LEARNER = prepare(TASK)


def fitted(data, seed):
    return train(LEARNER, LEARNER.initial(), data, Plan(60, torch.Generator().manual_seed(seed))).flat


def fitted_privately(data, seed):
    plan = PrivatePlan(20, Mechanism(1.0, 16.0, 0.5), SecretNoise(bytes([seed]) * 32))
    return private_train(LEARNER, LEARNER.initial(), data, plan).flat


def attacked(fit, shadows=6):
    """Both attacks on a model fitted to MEMBERS."""
    pool = Examples(torch.cat([MEMBERS.inputs, OTHERS.inputs]), torch.cat([MEMBERS.targets, OTHERS.targets]))
    target = example_losses(LEARNER, fit(MEMBERS, 0), pool)
    inside = random_halves(len(pool), shadows, generator())
    models = [fit(pool.rows(torch.from_numpy(rows).nonzero().squeeze(1)), 1 + i) for i, rows in enumerate(inside)]
    shadow_losses = np.stack([example_losses(LEARNER, model, pool) for model in models])
    both = loss_scores(target), shadow_scores(target, shadow_losses, inside)
    return [leak(s[:100], s[100:], generator()) for s in both]


@pytest.mark.real
def test_a_model_that_remembers_is_found_out_and_more_so_by_shadow_models():
    by_loss, by_shadows = attacked(fitted)
    assert by_loss.auc_interval[0] > 0.6
    assert by_shadows.auc > by_loss.auc
    assert by_shadows.advantage > 0.3


@pytest.mark.real
def test_a_model_that_was_trained_privately_is_not():
    for found in attacked(fitted_privately):
        assert found.auc < 0.6


def test_the_attack_needs_no_classes():
    task = replace(TASK, loss=lambda out, target: ((out[:, 0] - target) ** 2).mean(), classes=None)
    learner = prepare(task)
    assert example_losses(learner, learner.initial(), OTHERS).shape == (100,)
