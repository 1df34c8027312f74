"""Tests of node.learning.gradients."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.func import grad_and_value

from node.learning.gradients import gradient_and_value
from node.learning.mapped import over_members
from node.learning.pure import batch_loss
from node.learning.task import prepare
from node.learning.task_files import load_task

LIGHT = """
import sys
import torch
from node.learning.many import Pool, Trainer
from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan
from node.learning.trust import Inputs, TrustSettings, TrustState
from node.learning.weigher import Judge, learn_row

task = load_task(sys.argv[1])
learner, split = prepare(task), task.data(Share())
Trainer(learner).train(torch.zeros(2, learner.spec.size), Pool.of([split.train] * 2), [Plan(3, torch.Generator())] * 2)
seen = Inputs((0, 1), (1, 1), 0, torch.randn(2, learner.spec.size))
learn_row(TrustState.fresh(), seen, Judge(learner, split.validation), TrustSettings(), torch.Generator())
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.real
@pytest.mark.parametrize("task", ["mnist-softmax", "mnist-cnn"])
def test_a_gradient_is_that_of_torch_func(task):
    learner = prepare(load_task(task))
    loss, drawn = batch_loss(learner), torch.Generator().manual_seed(3)
    flat = torch.randn(learner.spec.size, generator=drawn) / 20
    images, labels = torch.randn(16, 1, 28, 28, generator=drawn), torch.arange(16) % 10
    found = gradient_and_value(loss)(flat, images, labels)
    expected = grad_and_value(loss)(flat, images, labels)
    torch.testing.assert_close(found, expected)
    if task == "mnist-softmax":  # GroupNorm's gradient is rounded otherwise there
        assert torch.equal(found[0], expected[0])
    assert not any(tensor.requires_grad for tensor in found)


def test_mapped_over_members_each_has_its_own_gradient():
    cubes = gradient_and_value(over_members(lambda x: (x**3).sum()))
    gradients, values = cubes(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert gradients.tolist() == [[3.0, 12.0], [27.0, 48.0]]
    assert values.tolist() == [9.0, 91.0]


@pytest.mark.real
def test_a_node_that_trains_and_weighs_does_not_import_the_compiler():
    command = [sys.executable, "-c", LIGHT, f"{Path(__file__).parent / 'example_task.py'}:task"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
