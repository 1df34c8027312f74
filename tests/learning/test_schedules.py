"""The learning rate over a session's rounds."""

import dataclasses
import math

import pytest
import torch

from node.errors import TaskError
from node.learning.schedules import constant, cosine
from node.learning.task import Share, prepare
from node.learning.trainer import Plan, train
from tests.learning.example_task import task


def test_a_constant_schedule_never_falls():
    assert [constant(round, 3) for round in (1, 2, 3)] == [1.0, 1.0, 1.0]


def test_a_cosine_is_torchs_annealing():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for round in range(1, 21):
        assert cosine(round, 20) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_rounds_outside_the_session_have_its_ends():
    assert cosine(0, 5) == 1.0
    assert cosine(99, 5) == 0.0
    assert cosine(1, 0) == 1.0


def test_a_learner_trains_with_the_rounds_rate():
    falling = dataclasses.replace(task, learning_rate=0.4, schedule=cosine)
    learner = prepare(falling)
    slow = prepare(dataclasses.replace(task, learning_rate=0.2))
    data = task.data(Share()).train
    halfway = train(learner.in_round(3, 4), learner.initial(), data, Plan(5, torch.Generator().manual_seed(1)))
    same = train(slow, slow.initial(), data, Plan(5, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(halfway.flat, same.flat)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -0.1, "fast", None])
def test_a_schedule_that_gives_no_factor_is_named(factor):
    broken = dataclasses.replace(task, schedule=lambda *_: factor)
    with pytest.raises(TaskError, match=r"schedule\(2, 9\) gave"):
        broken.learning_rate_in(2, 9)
