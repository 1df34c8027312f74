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
    """Per member; with several results of one operation, an operation in place, and a gradient."""

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


def test_the_same_tensor_given_twice_is_two_arguments():
    x = drawn(1, 3)
    play, result = recorded(lambda a, b: a - 2 * b, x, x)
    assert isinstance(play, GraphModule)
    assert torch.equal(result, x - 2 * x)
    assert torch.equal(play(x, drawn(2, 3)), x - 2 * drawn(2, 3))


def scaled_in_place(x):
    scale = torch.tensor([1.0, 2.0, 3.0])
    scale *= 0.5
    return x * scale


def masked(x):
    return x * torch.rand(3, generator=torch.Generator().manual_seed(4))


BUFFER = torch.arange(3.0)


@pytest.mark.parametrize(
    "function", [scaled_in_place, masked, lambda x: x * BUFFER, lambda x: x[x > 0].sum(), lambda x: x.nonzero().sum()]
)
def test_what_cannot_be_played_back_stays_as_it_is(function):
    x = drawn(1, 3)
    play, result = recorded(function, x)
    assert play is function
    assert torch.equal(result, function(x))
    assert torch.equal(play(x), result)


@pytest.mark.parametrize(
    "layer", [torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(3, 3), torch.nn.LayerNorm(8), torch.nn.MaxPool2d(2)]
)
def test_layers_whose_gradients_are_partly_none_are_recorded(layer):
    names = [name for name, _ in layer.named_parameters()]
    starts = [value.detach() for value in layer.parameters()]

    def slopes(x, *values):
        leaf = x.detach().requires_grad_()
        made = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (leaf,))
        (slope,) = torch.autograd.grad(made.square().sum(), leaf)
        return slope

    play, _ = recorded(slopes, drawn(1, 2, 3, 8, 8), *starts)
    assert isinstance(play, GraphModule)
    x = drawn(2, 2, 3, 8, 8)
    assert torch.equal(play(x, *starts), slopes(x, *starts))


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
