import subprocess
import sys

import numpy as np
import pytest
import torch

from node.config import Aggregation
from node.errors import UpdateError
from node.learning import aggregation
from node.learning.aggregation import (
    When,
    decode_moments,
    encode_moments,
    settle,
    staleness_factor,
    trust_row,
)
from node.learning.baselines import BASELINES
from node.learning.mixing import quantise

SIZE = 50


@pytest.fixture
def updates():
    generator = torch.Generator().manual_seed(3)
    crowd = torch.randn(6, SIZE, generator=generator) * 0.1 + 1
    crowd[5] = -20  # an attacker
    return crowd


def result(rule, model, updates, examples=None, moments=None):
    """What the rule makes, by way of the 16-bit row that a record would hold."""
    row = trust_row(rule, model, updates, examples or [1] * len(updates))
    inputs = [each for each, weight in zip([model, *updates], row, strict=True) if weight]
    return settle(rule, model, inputs, row[row > 0], moments).flat


def test_federated_averaging_weighs_by_examples(updates):
    mixed = result(Aggregation(), torch.zeros(SIZE), updates[:2], [300, 100])
    torch.testing.assert_close(mixed, 0.75 * updates[0] + 0.25 * updates[1], atol=1e-4, rtol=0)


def test_the_row_of_gradients_has_the_examples_themselves_and_any_other_row_adds_up(updates):
    for rule in ("sgd", "adam"):
        row = trust_row(Aggregation(rule=rule), torch.zeros(SIZE), updates[:3], [400, 311, 97])
        assert row.tolist() == [0, 400, 311, 97]
    row = trust_row(Aggregation(), torch.zeros(SIZE), updates[:3], [400, 311, 97])
    assert row.tolist() == quantise([0, 400, 311, 97]).tolist()


def test_an_old_update_counts_less():
    assert staleness_factor(0) == 1
    assert staleness_factor(3) == 0.5
    assert staleness_factor(-2) == 1


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "geometric_median"])
def test_robust_rules_are_those_of_the_literature(name, updates):
    rule = Aggregation(rule=name, faulty=1)
    expected = BASELINES[name](updates[0], updates[1:], 1)
    torch.testing.assert_close(result(rule, torch.zeros(SIZE), updates), expected, atol=2e-3, rtol=0)


def test_clipping_is_that_of_the_literature(updates):
    model = torch.ones(SIZE)
    expected = BASELINES["clipping"](model, updates, 1)
    torch.testing.assert_close(
        result(Aggregation(rule="clipping", faulty=1), model, updates), expected, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "clipping"])
def test_one_attacker_does_not_move_a_robust_rule_far(name, updates):
    mixed = result(Aggregation(rule=name, faulty=1), torch.ones(SIZE), updates)
    assert float((mixed - 1).abs().max()) < 0.5


def adaptive(name, changes, rate=0.1):
    """A model that sees these changes, one a round, by the formulas of arXiv:2003.00295 in double precision."""
    rule = Aggregation(rule=name, server_rate=rate)
    model, first, second = np.zeros(SIZE), np.zeros(SIZE), np.full(SIZE, rule.tau**2)
    for change in changes:
        square = change**2
        first = rule.beta1 * first + (1 - rule.beta1) * change
        second = {
            "fedadam": rule.beta2 * second + (1 - rule.beta2) * square,
            "fedyogi": second - (1 - rule.beta2) * square * np.sign(second - square),
            "fedadagrad": second + square,
        }[name]
        model = model + rate * first / (np.sqrt(second) + rule.tau)
    return rule, model


@pytest.mark.parametrize("name", sorted(aggregation.ADAPTIVE))
def test_server_optimizers_follow_their_paper(name):
    generator = np.random.default_rng(1)
    changes = [generator.normal(size=SIZE) for _ in range(5)]
    rule, expected = adaptive(name, changes)
    model, moments = torch.zeros(SIZE), None
    for change in changes:
        update = model + torch.from_numpy(change).float()
        settled = settle(rule, model, [update], np.array([65535], dtype=np.uint16), moments)
        assert settled.moments is not None
        moments = decode_moments(rule, encode_moments(settled.moments), SIZE)
        model = settled.flat
    np.testing.assert_allclose(model.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_steps_on_gradients_are_those_of_torchs_optimizers_bit_for_bit(name, momentum, schedule):
    rule = Aggregation(rule=name, server_rate=0.3, momentum=momentum, schedule=schedule)
    generator = torch.Generator().manual_seed(1)
    model, moments = torch.randn(SIZE, generator=generator), None
    expected = torch.nn.Parameter(model.clone())
    reference = (
        torch.optim.SGD([expected], 0.3, momentum)
        if name == "sgd"
        else torch.optim.Adam([expected], 0.3, (rule.beta1, rule.beta2), rule.tau, foreach=False)
    )
    for round in range(1, 6):
        gradient = torch.randn(SIZE, generator=generator)
        when = When(round, 8)
        settled = settle(rule, model, [gradient], np.array([65535], dtype=np.uint16), moments, when)
        model, moments = settled.flat, settled.moments
        expected.grad = gradient
        reference.param_groups[0]["lr"] = aggregation.scheduled_rate(rule, when)
        reference.step()
        assert torch.equal(model, expected.detach())


COMPILER = """
import sys, torch
from node.config import Aggregation
from node.learning.aggregation import fresh_moments, settle
import numpy as np
for name in ("sgd", "adam"):
    rule = Aggregation(rule=name)
    settle(rule, torch.ones(4), [torch.ones(4)], np.array([65535], dtype=np.uint16), fresh_moments(rule, 4))
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.real
def test_a_step_on_gradients_does_not_bring_torchs_compiler_into_memory():
    done = subprocess.run([sys.executable, "-c", COMPILER], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]


def test_moments_of_another_model_are_refused():
    content = encode_moments(aggregation.fresh_moments(Aggregation(), 4))
    with pytest.raises(UpdateError):
        decode_moments(Aggregation(), content, 5)
