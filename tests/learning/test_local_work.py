from dataclasses import replace

import pytest
import torch
from torch.func import grad

from node.errors import TaskError
from node.learning import trainer
from node.learning.local_work import Interruptions, gradient_of, train_from
from node.learning.pure import batch_loss
from node.learning.task import Examples, Share, prepare
from tests.learning.example_task import task

LEARNER = prepare(task, seed=1)
DATA = task.data(Share(seed=1)).train


def plan(steps):
    return trainer.Plan(steps, torch.Generator().manual_seed(4))


def test_it_is_the_training_of_everybody_else():
    model = LEARNER.initial()
    assert torch.equal(
        train_from(LEARNER, model.clone(), DATA, plan(7)).flat, trainer.train(LEARNER, model, DATA, plan(7)).flat
    )


def test_it_ends_early_when_told_but_never_without_a_step():
    asked = []
    done = train_from(
        LEARNER,
        LEARNER.initial(),
        DATA,
        plan(9),
        between=Interruptions(lambda: bool(asked.append(1)) or len(asked) > 2),
    )
    assert (done.steps, done.examples) == (3, 3 * task.batch_size)
    assert train_from(LEARNER, LEARNER.initial(), DATA, plan(9), between=Interruptions(lambda: True)).steps == 1


def test_seconds_are_those_of_the_clock():
    ticks = iter([10.0, 14.5])
    done = train_from(LEARNER, LEARNER.initial(), DATA, plan(2), between=Interruptions(clock=lambda: next(ticks)))
    assert done.seconds == 4.5


def test_the_proximal_term_holds_the_worker_near_the_model():
    model = LEARNER.initial()
    free, held = (train_from(LEARNER, model.clone(), DATA, plan(50), proximal).flat for proximal in (0.0, 5.0))
    assert float((held - model).norm()) < 0.6 * float((free - model).norm())


def test_the_first_proximal_step_is_the_plain_one():
    model = LEARNER.initial()
    torch.testing.assert_close(
        train_from(LEARNER, model.clone(), DATA, plan(1), 5.0).flat,
        train_from(LEARNER, model.clone(), DATA, plan(1)).flat,
    )


def test_no_examples_are_an_error():
    with pytest.raises(TaskError, match="no training examples"):
        train_from(LEARNER, LEARNER.initial(), Examples(torch.empty(0, 6), torch.empty(0, 1)), plan(1))


@pytest.mark.parametrize(
    "changes", [{}, {"momentum": 0.9}, {"weight_decay": 0.01}, {"momentum": 0.5, "weight_decay": 0.1}]
)
def test_steps_in_place_are_the_trainers_bit_for_bit(changes):
    learner = prepare(replace(task, **changes), seed=1)
    model = learner.initial()
    expected = trainer.train(learner, model, DATA, plan(5)).flat
    assert torch.equal(train_from(learner, model, DATA, plan(5)).flat, expected)
    assert torch.equal(model, expected)


def test_a_module_without_numbers_learns_the_same():
    light = prepare(task, seed=1).without_numbers()
    assert all(parameter.is_meta for parameter in light.module.parameters())
    assert torch.equal(light.initial(), LEARNER.initial())
    done = train_from(light, light.initial(), DATA, plan(3))
    assert torch.equal(done.flat, train_from(LEARNER, LEARNER.initial(), DATA, plan(3)).flat)
    assert torch.equal(
        gradient_of(light, light.initial(), DATA, plan(3)).flat,
        gradient_of(LEARNER, LEARNER.initial(), DATA, plan(3)).flat,
    )


def test_a_gradient_is_the_mean_of_its_batches():
    model = LEARNER.initial()
    gradient = grad(batch_loss(LEARNER))
    with trainer.seeded(made := plan(3)):
        rows = list(trainer.batch_rows(len(DATA), task.batch_size, made))
    total = sum((gradient(model, DATA.inputs[row], DATA.targets[row]) for row in rows), torch.zeros_like(model))
    assert torch.equal(gradient_of(LEARNER, model, DATA, plan(3)).flat, total.div_(3))
    assert torch.equal(model, LEARNER.initial())
