"""The screen's last question: who is only too far is let in among few, if that is useful. Of softmax regression."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from node.learning.many import Pool
from node.learning.screen import sketches_of
from node.learning.task import Examples, Task, prepare
from node.learning.trust import Inputs, TrustSettings, TrustState
from node.learning.weigher import Judge, Seat, Weigher, learn_row

FEATURES, CLASSES = 6, 3
SETTINGS = TrustSettings()
LEARNER = prepare(Task("three", lambda: torch.nn.Linear(FEATURES, CLASSES, bias=False), lambda share: None, classes=3))
TRUTH = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
WRONG = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(2))


def examples(seed=0, count=600, unclear=0.0):
    """Whose targets are the truth's, a share of them (unclear) any."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator)
    targets = (inputs @ TRUTH.T).argmax(dim=1)
    guessed = torch.rand(count, generator=generator) < unclear
    return Examples(inputs, torch.where(guessed, torch.randint(0, CLASSES, (count,), generator=generator), targets))


def updates(*matrices, seed=0):
    """Stacked (k, size), each with a little noise, so that no two are the same."""
    generator = torch.Generator().manual_seed(seed)
    stacked = torch.stack([matrix.reshape(-1) for matrix in matrices])
    return stacked + 0.1 * torch.randn(stacked.shape, generator=generator)


def seat(state, stacked, round=2, judge=0, own=0):
    count = len(stacked)
    inputs = Inputs(tuple(range(count)), (round,) * count, own, stacked, step=10.0)
    return Seat(state, inputs, judge, torch.Generator().manual_seed(7))


def after_a_round():
    """The state of who has met two that were near."""
    before = updates(*[0.5 * TRUTH] * 3, seed=9)
    first = seat(TrustState.fresh(), before, 1)
    return learn_row(first.state, first.inputs, Judge(LEARNER, examples()), SETTINGS, first.generator)[0]


def row(*far, own=0.6 * TRUTH, others=1, judged=None, settings=SETTINGS, usual=None):
    """The row of who is with so many others that are near, and with those that are far."""
    stacked, state = updates(own, *[0.6 * TRUTH] * others, *far), after_a_round()
    given = seat(state if usual is None else replace(state, distance=np.array([usual], np.float32)), stacked)
    return learn_row(given.state, given.inputs, Judge(LEARNER, judged or examples()), settings, given.generator)[1]


GOOD = 2 * TRUTH


@pytest.mark.parametrize("others", [0, 1, 2])
def test_who_is_far_and_useful_counts(others):
    assert row(GOOD, others=others)[-1] > 0.1


def test_nobody_is_asked_for_where_three_others_passed():
    assert (row(GOOD, others=3) > 0).tolist() == [True] * 4 + [False]


def test_a_personal_row_lets_nobody_in():
    assert row(GOOD, settings=TrustSettings("personal"))[2] == 0


def test_who_is_as_skilled_and_makes_the_mixture_worse_stays_out():
    assert row(12 * TRUTH)[2] > 0
    assert row(12 * TRUTH, judged=examples(unclear=0.3))[2] == 0  # the same classes, and too sure of them


def test_who_is_out_of_reach_is_not_asked_for():
    beyond = GOOD + 40 * torch.outer(torch.ones(CLASSES), WRONG[0])  # the softmax does not see it
    assert row(beyond)[2] == 0


def test_who_gains_less_than_a_hundredth_stays_out():
    beside = 0.6 * TRUTH + torch.outer(torch.ones(CLASSES), WRONG[0])  # the softmax does not see it
    assert row(beside)[2] == 0
    assert row(beside + 0.005 * TRUTH)[2] == 0
    assert row(beside + 0.4 * TRUTH)[2] > 0


def test_neighbours_who_send_noise_do_not_set_what_counts_as_the_same():
    """By the noise's distances alone honest members would have sent nothing new, and be each other's copies."""
    noise = [100 * torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    honest = [updates(*[share * TRUTH] * 3, seed=seed) for seed, share in enumerate((0.5, 0.55))]
    state = TrustState.fresh()
    for round, stacked in enumerate(honest, 1):
        given = seat(state, torch.cat([stacked, updates(*noise, seed=round + 5)]), round)
        inputs = replace(given.inputs, step=1.0)
        state, found = learn_row(state, inputs, Judge(LEARNER, examples()), SETTINGS, given.generator)
        assert (found > 0).tolist() == [True] * 3 + [False] * 3


def recall(matrix, judged):
    right = (judged.inputs @ matrix.T).argmax(dim=1) == judged.targets
    return float(torch.stack([right[judged.targets == known].float().mean() for known in range(CLASSES)]).mean())


def loss(matrix, judged):
    return float(torch.nn.functional.cross_entropy(judged.inputs @ matrix.T, judged.targets))


def test_who_knows_less_of_our_classes_than_we_do_stays_out_although_the_mixture_gains():
    judged, known_in_part = examples(), 2 * (TRUTH + 0.4 * WRONG)
    assert 0.7 < recall(known_in_part, judged) < 0.9
    assert loss((1.2 * TRUTH + known_in_part) / 3, judged) < 0.95 * loss(0.6 * TRUTH, judged)
    assert row(known_in_part)[2] == 0


def test_who_knows_half_of_what_another_peer_knows_stays_out_although_we_know_even_less():
    judged, far = examples(), TRUTH + 1.2 * WRONG
    assert recall(-TRUTH, judged) < recall(far, judged) < 0.5
    assert loss((-0.4 * TRUTH + far) / 3, judged) < 0.95 * loss(-0.2 * TRUTH, judged)
    assert (row(far, own=-TRUTH, usual=5.0) > 0).tolist() == [True, True, False]


def test_who_is_useful_alone_but_not_with_another_leaves_the_place_to_the_better_one():
    pair, judged = [6 * TRUTH, 6.5 * TRUTH], examples(unclear=0.05)
    assert all(row(one, judged=judged)[2] > 0 for one in pair)
    for far in (pair, pair[::-1]):
        assert (row(*far, judged=judged)[2:] > 0).tolist() == [one is pair[0] for one in far]


def test_two_who_are_useful_together_both_count():
    assert (row(GOOD, 2.2 * TRUTH) > 0).all()


def alone(each, parts):
    judge = Judge(LEARNER, parts[each.judge])
    generator = torch.Generator().manual_seed(7)
    return learn_row(each.state, each.inputs, judge, SETTINGS, generator)[1]


@pytest.mark.parametrize("shared", [True, False])
def test_many_members_let_in_whom_each_lets_in_alone(shared):
    """Of whom one has unclear examples, and one saw the far update before, sent by somebody else."""
    parts = [examples(seed, unclear=unclear) for seed, unclear in enumerate((0.0, 0.3, 0.0, 0.0))]
    stacks = [updates(*[0.6 * TRUTH] * 2, 12 * TRUTH, seed=0 if shared else seed) for seed in range(4)]
    stacks = [stacks[0]] * 4 if shared else stacks
    if not shared:
        stacks[3] = updates(*[0.6 * TRUTH] * 3, seed=3)
    usual = after_a_round()
    seen = TrustState(
        np.array([9]), np.zeros(1, np.float32), sketches_of(stacks[2][2:]).numpy(), np.array([1]), usual.distance
    )
    states = [usual, usual, seen, usual]
    seats = [seat(state, stack, judge=i) for i, (state, stack) in enumerate(zip(states, stacks, strict=True))]
    seats[3] = replace(seats[3], inputs=replace(seats[3].inputs, own=1))
    together = Weigher(LEARNER, Pool.of(parts), SETTINGS).learn_rows(seats)
    for each, (_, found) in zip(seats, together, strict=True):
        np.testing.assert_allclose(found, alone(replace(each, generator=None), parts), atol=1e-6)
    assert [bool(found[2] > 0) for _, found in together] == [True, False, False, True]


@pytest.mark.parametrize("count", [4, 15, 100])
@pytest.mark.parametrize("least", [0.0, -5.0])  # a likelihood's logarithm, say, may be negative
def test_a_task_without_classes_asks_the_same_of_few_examples_and_of_negative_losses(count, least):
    def squares(predicted, targets):
        return (predicted - targets).square().mean() + least

    learner = prepare(Task("line", lambda: torch.nn.Linear(FEATURES, 1, bias=False), lambda share: None, loss=squares))
    inputs = 2 * torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(3))
    inputs[:, 0] = 0
    beside = torch.eye(FEATURES)[:1]  # no loss sees it
    judge = Judge(learner, Examples(inputs, inputs @ TRUTH[:1].T))

    first, second = (updates(*[share * TRUTH[:1]] * 2, seed=9) for share in (0.5, 0.6))

    def row(far):
        given = seat(TrustState.fresh(), first, 1)
        state, _ = learn_row(given.state, given.inputs, judge, SETTINGS, given.generator)
        given = seat(state, torch.cat([second, far]))
        return learn_row(given.state, given.inputs, judge, SETTINGS, given.generator)[1]

    assert row(1.2 * TRUTH[:1])[2] > 0
    assert row(-1.2 * TRUTH[:1])[2] == 0
    assert row(second.mean(dim=0, keepdim=True) + 3 * beside)[2] == 0
