"""The choice of a device, as a function of what there is, needs no GPU; training on one is tested where one is."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from node.errors import ConfigError
from node.learning import trainer
from node.learning.devices import CPU, Moved, Present, bench, choose, measure, on_device, present
from node.learning.local_work import gradient_of, train_from
from node.learning.task import Share, prepare
from tests.learning.example_task import task

LEARNER = prepare(task, seed=1)
SPLIT = task.data(Share(seed=1))
NOTHING = Present()
TWO_GPUS = Present(cuda=2)


def plan(steps=5):
    return trainer.Plan(steps, torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("wanted", "here", "chosen"),
    [
        ("auto", NOTHING, "cpu"),
        ("auto", TWO_GPUS, "cuda:0"),
        ("auto", Present(mps=True), "mps"),
        ("auto", Present(cuda=1, mps=True), "cuda:0"),
        ("cpu", TWO_GPUS, "cpu"),
        ("cuda", TWO_GPUS, "cuda:0"),
        ("CUDA:1", TWO_GPUS, "cuda:1"),
        ("mps", Present(mps=True), "mps"),
    ],
)
def test_a_gpu_is_used_when_there_is_one_and_nothing_else_was_asked_for(wanted, here, chosen):
    assert str(choose(wanted, here)) == chosen


@pytest.mark.parametrize(
    ("wanted", "here", "said"),
    [
        ("cuda", NOTHING, "finds no GPU here: install its driver"),
        ("cuda:0", Present(mps=True), "finds no GPU here"),
        ("cuda:2", TWO_GPUS, "the GPUs here are cuda:0 to cuda:1: choose one of them"),
        ("mps", TWO_GPUS, "no GPU of Apple's here: choose --device auto or cpu"),
        ("gpu", TWO_GPUS, "'gpu' is no device: choose auto, cpu, cuda, cuda:N or mps"),
        ("cuda:-1", TWO_GPUS, "is no device"),
        ("", NOTHING, "is no device"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_with_the_cure(wanted, here, said):
    with pytest.raises(ConfigError, match=said):
        choose(wanted, here)


def test_on_the_cpu_nothing_is_copied():
    flat = LEARNER.initial()
    ready = bench(CPU, LEARNER, flat, SPLIT.train)
    assert (ready.learner, ready.data) == (LEARNER, SPLIT.train)
    assert ready.flat is flat
    assert ready.flat.cpu() is flat


class Scaled(nn.Module):
    """A linear model with a fixed number beside its parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, inputs):
        return self.linear(inputs) * self.scale


def test_the_module_for_a_device_keeps_its_fixed_numbers_and_computes_the_same():
    """What goes to a GPU goes through the same code; here it ends on the CPU again."""
    learner = prepare(replace(task, model=Scaled), seed=1)
    there = on_device(learner, CPU)
    assert there.module is not learner.module
    assert all(parameter.is_meta for parameter in there.module.parameters())
    assert not any(parameter.is_meta for parameter in learner.module.parameters())
    assert float(there.module.scale) == 2.0
    rows = Moved(SPLIT.train, CPU)
    for work in (train_from, gradient_of):
        here = work(learner, learner.initial(), SPLIT.train, plan()).flat
        assert torch.equal(work(there, learner.initial(), rows, plan()).flat, here)
    assert torch.equal(
        trainer.train(there, learner.initial(), rows, plan()).flat,
        trainer.train(learner, learner.initial(), SPLIT.train, plan()).flat,
    )


def test_a_module_that_gave_up_its_numbers_can_go_to_a_device_too():
    hollow = prepare(task, seed=1).without_numbers()
    here = trainer.train(LEARNER, LEARNER.initial(), SPLIT.train, plan()).flat
    assert torch.equal(trainer.train(on_device(hollow, CPU), hollow.initial(), SPLIT.train, plan()).flat, here)


@pytest.mark.skipif(not present().cuda, reason="no GPU here: see docs/tasks.md")
def test_training_on_a_gpu_is_that_of_the_cpu_to_float_tolerance():
    gpu = choose("auto", present())
    for work in (train_from, gradient_of):
        ready = bench(gpu, LEARNER, LEARNER.initial(), SPLIT.train)
        there = work(ready.learner, ready.flat, ready.data, plan()).flat
        assert there.device == gpu
        here = work(LEARNER, LEARNER.initial(), SPLIT.train, plan()).flat
        assert torch.allclose(there.cpu(), here, rtol=1e-3, atol=1e-5)
    said, seen = (
        measure(gpu, LEARNER, LEARNER.initial(), SPLIT.test),
        measure(CPU, LEARNER, LEARNER.initial(), SPLIT.test),
    )
    assert said.keys() == seen.keys()
    assert all(said[name] == pytest.approx(seen[name], rel=1e-3) for name in seen)
