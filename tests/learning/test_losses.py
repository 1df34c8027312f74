"""Tests of node.learning.losses."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.func import vmap

from node.learning.losses import cross_entropies, cross_entropy, mappable

TORCHS = nn.functional.cross_entropy
MAPPED = """
import sys
import torch
from torch.func import vmap
from node.learning.losses import cross_entropy

outputs = torch.randn(2, 3, 4, requires_grad=True)
torch.autograd.grad(vmap(cross_entropy)(outputs, torch.ones(2, 3).long()).sum(), outputs)
print("sympy" in sys.modules)
"""


def of_members(loss, outputs, targets):
    """Values (members,), and gradients (members, n, classes)."""
    leaf = outputs.clone().requires_grad_()
    values = vmap(loss)(leaf, targets)
    return values.detach(), *torch.autograd.grad(values.sum(), leaf)


@pytest.mark.parametrize("examples", [1, 2, 7, 128, 1000])
def test_mapped_it_is_torchs_up_to_rounding(examples):
    drawn = torch.Generator().manual_seed(examples)
    outputs = 20 * torch.randn(6, examples, 10, generator=drawn)
    targets = torch.randint(0, 10, (6, examples), generator=drawn)
    found, expected = of_members(cross_entropy, outputs, targets), of_members(TORCHS, outputs, targets)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)
    each = torch.stack([TORCHS(*member, reduction="none") for member in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(vmap(cross_entropies)(outputs, targets), each, rtol=2e-6, atol=2e-6)


def test_numbers_that_are_not_finite_stay_so():
    outputs = torch.tensor([[1.0, float("nan")], [float("inf"), 0.0], [1e30, -1e30]])
    targets = torch.tensor([0, 1, 1])
    assert torch.equal(cross_entropies(outputs, targets).isfinite(), torch.tensor([False, False, True]))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.randn(4, 3), torch.rand(4, 3).softmax(dim=1)),  # probabilities
        (torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))),  # a class number for each place
        (torch.randn(3), torch.tensor(1)),
    ],
)
def test_whatever_else_torchs_takes_is_left_to_it(outputs, targets):
    assert torch.equal(cross_entropy(outputs, targets), TORCHS(outputs, targets))


def test_another_loss_is_mapped_as_it_is():
    assert mappable(nn.functional.mse_loss) is nn.functional.mse_loss
    assert mappable(TORCHS) is cross_entropy


@pytest.mark.real
def test_mapped_it_does_not_import_symbolic_algebra():
    done = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
