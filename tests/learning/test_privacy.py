from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import vmap

from node.errors import ConfigError, TaskError
from node.learning.accounting import Budget, Release, spent
from node.learning.privacy import (
    Mechanism,
    PrivatePlan,
    clipped_sum,
    mechanism_for,
    padded,
    poisson_batch,
    private_step,
    private_train,
)
from node.learning.pure import batch_loss
from node.learning.secret_noise import SecretNoise, round_noise
from node.learning.task import Examples, Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import evaluate, training_step

TASK = load_task(f"{Path(__file__).parent / 'example_task.py'}:task")
DATA = TASK.data(Share()).train
LEARNER = prepare(TASK)
LOSS = batch_loss(LEARNER)
SIZE = LEARNER.spec.size


def noise(key=1):
    return SecretNoise(bytes([key]) * 32)


def trained(steps=20, mechanism=None, key=1, learner=LEARNER, **options):
    plan = PrivatePlan(steps, mechanism or Mechanism(1.0, 1.0, 0.1), noise(key))
    return private_train(learner, learner.initial(), DATA, plan, **options)


def gradients(flat, data):
    """Per-example gradients the slow way."""
    rows = []
    for i in range(len(data)):
        leaf = flat.clone().requires_grad_()
        LOSS(leaf, data.inputs[i : i + 1], data.targets[i : i + 1]).backward()
        rows.append(leaf.grad)
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_clipped_sum_is_that_of_gradients_clipped_one_by_one(chunk):
    few = DATA.rows(torch.arange(10))
    flat = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    slow = gradients(flat, few)
    norms = slow.norm(dim=1, keepdim=True)
    clip = float(norms.median())
    expected = (slow * (clip / norms).clamp(max=1.0)).sum(dim=0)
    found, losses = clipped_sum(LOSS, clip, chunk)(flat, few.inputs, few.targets, torch.ones(10))
    torch.testing.assert_close(found, expected)
    assert float(losses) / 10 == pytest.approx(float(LOSS(flat, few.inputs, few.targets)), rel=1e-5)


def test_no_example_whatever_it_holds_adds_more_than_the_clipping_norm():
    few = DATA.rows(torch.arange(4))
    total = clipped_sum(LOSS, 0.5, 100)
    without = total(LEARNER.initial(), few.inputs, few.targets, torch.tensor([1.0, 1, 1, 0]))[0]
    for value in (1e3, 1e19, 1e30, float("inf"), float("nan")):
        inputs = few.inputs.clone()
        inputs[3] = value
        summed = total(LEARNER.initial(), inputs, few.targets, torch.ones(4))[0]
        assert float((summed - without).norm()) <= 0.5 * (1 + 1e-5)


def test_without_noise_and_clipping_it_is_the_ordinary_step():
    learner = prepare(replace(TASK, momentum=0.9, weight_decay=0.01))
    few = DATA.rows(torch.arange(16))
    start, velocity = learner.initial(), torch.ones(SIZE)
    ordinary = training_step(learner, LOSS)(start, velocity, few.inputs, few.targets, torch.tensor(TASK.learning_rate))
    step = private_step(learner, LOSS, Mechanism(1e6, 1e-9, 0.5), expected=16)
    private = step(start, velocity, few.inputs, few.targets, torch.ones(16), torch.zeros(SIZE))
    for found, expected in zip(private, ordinary, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_noise_is_that_of_the_mechanism():
    few = DATA.rows(torch.arange(4))
    step = private_step(LEARNER, LOSS, Mechanism(0.5, 3.0, 0.1), expected=40)
    ones, zeros = torch.ones(SIZE), torch.zeros(SIZE)
    arguments = (LEARNER.initial(), zeros, few.inputs, few.targets, torch.ones(4))
    difference = step(*arguments, zeros)[0] - step(*arguments, ones)[0]
    torch.testing.assert_close(difference, torch.full((SIZE,), TASK.learning_rate * 0.5 * 3.0 / 40))


def test_members_of_different_batches_are_mapped_as_if_alone():
    step = private_step(LEARNER, LOSS, Mechanism(1.0, 1.0, 0.1), expected=40)
    batches = [poisson_batch(DATA, 0.02, noise(key)) for key in (1, 2, 3)]
    flats, drawn = torch.randn(3, SIZE), torch.randn(3, SIZE)
    alone = [
        step(flats[i], torch.zeros(SIZE), batch.inputs, batch.targets, present, drawn[i])
        for i, (batch, present) in enumerate(batches)
    ]
    rows = max(len(batch) for batch, _ in batches)
    filled = [padded(batch, present, rows) for batch, present in batches]
    together = vmap(step)(
        flats,
        torch.zeros(3, SIZE),
        torch.stack([batch.inputs for batch, _ in filled]),
        torch.stack([batch.targets for batch, _ in filled]),
        torch.stack([present for _, present in filled]),
        drawn,
    )
    for i in range(3):
        for found, expected in zip(together, alone[i], strict=True):
            torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)


def test_every_example_is_in_a_batch_with_the_same_chance_whatever_the_others():
    source, counts, sizes = noise(), torch.zeros(len(DATA)), []
    indices = Examples(torch.arange(len(DATA)), torch.arange(len(DATA)))
    for _ in range(500):
        batch, present = poisson_batch(indices, 0.1, source)
        counts[batch.inputs] += present
        sizes.append(int(present.sum()))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert np.var(sizes) == pytest.approx(len(DATA) * 0.1 * 0.9, rel=0.25)  # a fixed size would have none


def test_an_empty_batch_is_a_step_of_noise_alone():
    batch, present = poisson_batch(DATA, 1e-9, noise())
    assert (len(batch), float(present.sum())) == (1, 0.0)
    step = private_step(LEARNER, LOSS, Mechanism(1.0, 1.0, 0.1), expected=40)
    zeros = torch.zeros(SIZE)
    flat, _, loss = step(LEARNER.initial(), zeros, batch.inputs, batch.targets, present, zeros)
    assert torch.equal(flat, LEARNER.initial())
    assert float(loss) == 0.0


def test_private_training_learns():
    before = evaluate(LEARNER, LEARNER.initial(), DATA)["loss"]
    flat = trained(200, Mechanism(5.0, 0.5, 0.2)).flat
    assert evaluate(LEARNER, flat, DATA)["loss"] < before / 20


def test_the_same_secret_gives_the_same_bits_and_another_does_not():
    assert torch.equal(trained().flat, trained().flat)
    assert not torch.equal(trained().flat, trained(key=2).flat)


def test_dropout_is_drawn_for_each_example():
    task = replace(TASK, model=lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    learner = prepare(task)
    torch.manual_seed(1)
    first = trained(learner=learner).flat
    torch.manual_seed(2)
    assert torch.equal(first, trained(learner=learner).flat)


def test_a_plan_says_what_it_costs():
    assert Mechanism(1.0, 1.3, 0.02).release(40) == Release(1.3, 0.02, 40)
    assert trained(7).examples == 7 * round(0.1 * len(DATA))


@pytest.mark.real
def test_a_member_spends_its_budget_evenly_over_the_rounds():
    budget = Budget(3.0, 1e-5)
    mechanism = mechanism_for(TASK, len(DATA), budget, rounds=5)
    assert mechanism.sample_rate == TASK.batch_size / len(DATA)
    total = spent((mechanism.release(5 * TASK.steps_per_round(len(DATA))),), budget)
    assert 0.99 * budget.epsilon <= total <= budget.epsilon


@pytest.mark.parametrize("values", [(0.0, 1.0, 0.1), (float("inf"), 1.0, 0.1), (1.0, 0.0, 0.1), (1.0, 1.0, 2.0)])
def test_a_mechanism_that_protects_nothing_is_refused(values):
    with pytest.raises(ConfigError):
        Mechanism(*values)


def test_training_stops_where_the_check_says_so():
    def check():
        raise KeyError

    with pytest.raises(KeyError):
        trained(check=check)


def test_a_model_that_does_not_take_the_data_is_one_clear_error():
    with pytest.raises(TaskError, match="do not fit"):
        trained(learner=prepare(replace(TASK, model=lambda: nn.Linear(7, 1))))


def test_the_noise_is_normal():
    numbers = noise().normals(100_000).double().numpy()
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    assert np.abs(numbers).max() > 4


def test_uniform_numbers_are_uniform_and_below_one():
    numbers = noise().uniforms(100_000).numpy()
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert 0 <= numbers.min() <= numbers.max() < 1


def test_the_stream_is_chacha20_and_moves_on():
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    stream = Cipher(algorithms.ChaCha20(b"\1" * 32, bytes(16)), None).encryptor().update(bytes(24))
    expected = [(int.from_bytes(stream[i : i + 8], "little") >> 11) * 2.0**-53 for i in (0, 8, 16)]
    source = noise()
    assert [*source.uniforms(2).tolist(), *source.uniforms(1).tolist()] == expected


def test_a_round_that_is_repeated_has_the_same_noise_and_any_other_has_its_own():
    secret, start = b"s" * 32, torch.zeros(3)
    first = round_noise(secret, "session/1/member/2/round/3", start).normals(5)
    assert torch.equal(first, round_noise(secret, "session/1/member/2/round/3", start.clone()).normals(5))
    others = [
        round_noise(b"t" * 32, "session/1/member/2/round/3", start),
        round_noise(secret, "session/1/member/2/round/4", start),
        round_noise(secret, "session/1/member/2/round/3", torch.tensor([0.0, 0.0, 1e-45])),
    ]
    assert not any(torch.equal(first, other.normals(5)) for other in others)


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        SecretNoise(bytes(16))
