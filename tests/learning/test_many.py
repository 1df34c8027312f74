from pathlib import Path

import numpy as np
import pytest
import torch

from node.learning import mapped as mapping
from node.learning.many import Evaluator, Pool, Trainer
from node.learning.mapped import mapped
from node.learning.mixing import mix, mix_many, quantise
from node.learning.pure import outputs
from node.learning.task import Examples, Share, Task, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, train

TASK = load_task(f"{Path(__file__).parent / 'example_task.py'}:task")
LEARNER = prepare(TASK)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(*sizes):
    data = TASK.data(Share())
    return [data.train.rows(torch.arange(size) % len(data.train)) for size in sizes]


@pytest.fixture
def soon_traced(monkeypatch):
    """After how many calls functions are traced in this test."""
    monkeypatch.setattr(mapping, "WARM", 15)
    return 15


@pytest.mark.parametrize("sizes", [(40, 40, 40), (40, 7, 25), (64,)])
def test_many_train_as_each_alone(sizes):
    data = parts(*sizes)
    flats = torch.randn(len(sizes), LEARNER.spec.size, generator=seeded())
    steps = [3 * (i + 1) for i in range(len(sizes))]
    together = Trainer(LEARNER).train(flats, Pool.of(data), [Plan(count, seeded(i)) for i, count in enumerate(steps)])
    for i, count in enumerate(steps):
        torch.testing.assert_close(together[i], train(LEARNER, flats[i], data[i], Plan(count, seeded(i))).flat)


def test_the_same_seeds_give_the_same_bits_and_leave_the_start_alone(soon_traced):
    data, flats = Pool.of(parts(40, 30)), torch.zeros(2, LEARNER.spec.size)
    trainer = Trainer(LEARNER)  # its second run plays a trace back
    runs = [trainer.train(flats, data, [Plan(20, seeded(i)) for i in range(2)]) for _ in range(2)]
    assert runs[0].numpy().tobytes() == runs[1].numpy().tobytes()
    assert not flats.any()


def test_a_trace_gives_the_bits_of_the_function_and_follows_its_arguments(soon_traced):
    play = mapped(lambda x, y: (x * y).sum().sin())
    arguments = [
        (torch.randn(3, 4, generator=seeded(i)), torch.randn(3, 4, generator=seeded(-i)))
        for i in range(soon_traced + 3)
    ]
    for x, y in arguments:
        assert play(x, y).tolist() == torch.stack([(a * b).sum().sin() for a, b in zip(x, y, strict=True)]).tolist()


def test_dropout_is_drawn_for_each_member_by_itself(soon_traced):
    module = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))
    learner = prepare(Task("dropout", lambda: module, lambda share: None, torch.nn.functional.mse_loss))
    same = Examples(torch.ones(8, 2), torch.zeros(8, 1))
    flats = learner.initial().repeat(2, 1)
    for steps in (2, soon_traced + 5):
        trained = Trainer(learner).train(flats, Pool.of([same, same]), [Plan(steps, seeded()), Plan(steps, seeded())])
        assert not torch.equal(trained[0], trained[1])


def test_many_are_evaluated_as_each_alone():
    data = TASK.data(Share()).test
    flats = torch.randn(3, LEARNER.spec.size, generator=seeded())
    for members, examples, predicted in Evaluator(LEARNER).outputs(flats, data):
        for flat, found in zip(flats[members], predicted, strict=True):
            torch.testing.assert_close(found, outputs(LEARNER, flat, data.inputs[examples]))


def test_many_mix_to_the_bits_that_each_mixes_to():
    generator = np.random.default_rng(1)
    updates = torch.tensor(generator.normal(size=(5, 33)), dtype=torch.float32)
    updates[4] = torch.nan  # never read at weight 0
    updates[0, :3] = -0.0
    chosen = [(0, 1, 2, 4), (1, 2), (3,), (0, 2, 3)]
    rows = [quantise(row) for row in ([0.5, 0.25, 0.25, 0.0], [0.0, 1.0], [1.0], [0.7, 0.2, 0.1])]
    together = mix_many(updates, chosen, rows)
    for row, members, mixed in zip(rows, chosen, together, strict=True):
        assert mixed.numpy().tobytes() == mix(updates[list(members)], row).numpy().tobytes()
