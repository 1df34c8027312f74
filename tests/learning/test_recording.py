"""Tests of node.learning.recording."""

import subprocess
import sys

import pytest
import torch
from torch.func import vmap
from torch.fx import GraphModule

from node.learning import recording
from node.learning.gradients import gradient_and_value
from node.learning.recording import recorded

WITHOUT_COMPILER = """
import sys
import torch
from node.learning.recording import recorded

recorded(lambda x: (x * 2).sum(), torch.ones(3))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(x, y):
    """Per member; with a constant, several results of one operation, an operation in place, and a gradient."""

    def loss(x, y):
        first, second = (x * torch.arange(4.0)).split(2)
        return ((first - second) * y).exp().sum()

    slopes, values = gradient_and_value(vmap(loss))(x, y)
    total = torch.zeros(4)
    total.add_(slopes.sum(dim=0))
    return total, values


def test_played_back_it_follows_its_arguments_with_the_same_bits():
    play, result = recorded(gradients, drawn(1, 3, 4), drawn(2, 3, 2))
    assert isinstance(play, GraphModule)
    assert [part.tolist() for part in result] == [part.tolist() for part in gradients(drawn(1, 3, 4), drawn(2, 3, 2))]
    for seed in range(3, 6):
        x, y = drawn(seed, 3, 4), drawn(seed + 9, 3, 2)
        assert [part.tolist() for part in play(x, y)] == [part.tolist() for part in gradients(x, y)]


def test_what_is_drawn_is_drawn_anew_and_the_recording_draws_once():
    def noisy(x):
        return x + torch.rand(3)

    torch.manual_seed(5)
    plain = [noisy(torch.zeros(3)).tolist() for _ in range(3)]
    torch.manual_seed(5)
    play, first = recorded(noisy, torch.zeros(3))
    assert [first.tolist(), *(play(torch.zeros(3)).tolist() for _ in range(2))] == plain


def test_a_function_that_branches_on_a_number_stays_as_it_is():
    def branching(x):
        return x * 2 if float(x.sum()) > 0 else x * 3

    play, result = recorded(branching, torch.ones(2))
    assert result.tolist() == [2, 2]
    assert play(-torch.ones(2)).tolist() == [-3, -3]


def test_a_function_with_large_intermediate_results_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(recording, "MEMORY", 500)

    def growing(x):
        return x.repeat(100).sum(dim=0, keepdim=True) + x

    play, result = recorded(growing, torch.ones(2))
    assert play is growing
    assert result.tolist() == [201, 201]


@pytest.mark.parametrize("same", [lambda x: x.view(2, 3).detach(), lambda x: x])
def test_what_changes_nothing_is_left_out(same):
    play, _ = recorded(lambda x: same(x) + 1, torch.ones(2, 3))
    assert [node.op for node in play.graph.nodes] == ["placeholder", "call_function", "output"]
    assert play(torch.zeros(2, 3)).tolist() == [[1] * 3] * 2


@pytest.mark.real  # a Python of its own
def test_torchs_compiler_is_not_imported():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
