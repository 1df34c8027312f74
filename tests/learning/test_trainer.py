from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from node.errors import TaskError
from node.learning.mapped import over_members
from node.learning.pure import outputs
from node.learning.task import Examples, LocalSplit, Share, Task, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, batch_rows, evaluate, train

TASK = load_task(f"{Path(__file__).parent / 'example_task.py'}:task")
DATA = TASK.data(Share())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(task, steps=40, seed=0, **options):
    learner = prepare(task)
    return train(learner, learner.initial(), DATA.train, Plan(steps, seeded(seed)), **options)


def test_training_approaches_the_best_loss_there_is():
    learner = prepare(TASK)
    result = train(learner, learner.initial(), DATA.train, Plan(200, seeded()))
    scores = evaluate(learner, result.flat, DATA.test)
    assert scores["loss"] < 0.02  # the noise alone is 0.01
    assert scores["mean_absolute_error"] < 0.12


def test_training_computes_what_torchs_optimizer_computes():
    task = replace(TASK, momentum=0.9, weight_decay=0.01)
    learner = prepare(task)
    module = task.model()
    with torch.no_grad():
        flat = learner.initial()
        module.bias.copy_(flat[:1])
        module.weight.copy_(flat[1:].view(1, -1))
    optimizer = torch.optim.SGD(module.parameters(), lr=task.learning_rate, momentum=0.9, weight_decay=0.01)
    generator = seeded()
    torch.randint(2**62, (1,), generator=generator)  # what training draws for dropout
    for row in batch_rows(len(DATA.train), task.batch_size, Plan(30, generator)):
        optimizer.zero_grad()
        batch = DATA.train.rows(row)
        task.loss(module(batch.inputs), batch.targets).backward()
        optimizer.step()
    expected = torch.cat([module.bias.detach(), module.weight.detach().view(-1)])
    torch.testing.assert_close(trained(task, 30).flat, expected, rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    assert torch.equal(trained(TASK).flat, trained(TASK).flat)
    assert not torch.equal(trained(TASK).flat, trained(TASK, seed=1).flat)


def test_dropout_depends_on_the_seed_only():
    task = replace(TASK, model=lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    torch.manual_seed(1)
    first = trained(task).flat
    torch.manual_seed(2)
    assert torch.equal(first, trained(task).flat)


def test_dropout_is_for_training_alone():
    task = replace(TASK, model=lambda: nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 1)))
    learner = prepare(task)
    assert evaluate(learner, learner.initial(), DATA.test) == evaluate(learner, learner.initial(), DATA.test)
    assert learner.module[1].training


def test_parts_that_a_task_set_to_evaluation_stay_so_in_training():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    learner = prepare(replace(TASK, model=lambda: model))
    evaluate(learner, learner.initial(), DATA.test)
    assert [part.training for part in model] == [True, False, True]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # scaled dot products are mapped in a loop
def test_attention_is_mapped_over_members_in_evaluation_too():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.TransformerEncoderLayer(6, 2, 16, batch_first=True)
            self.out = nn.Linear(6, 1)

        def forward(self, inputs):
            return self.out(self.attend(inputs[:, None]))[:, 0]

    learner = prepare(replace(TASK, model=Attending))
    flats = learner.initial().repeat(3, 1) + torch.randn(3, learner.spec.size, generator=seeded()) / 10
    together = over_members(partial(outputs, learner), (0, None))(flats, DATA.test.inputs)
    for flat, found in zip(flats, together, strict=True):
        torch.testing.assert_close(found, outputs(learner, flat, DATA.test.inputs))
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_a_model_keeps_from_its_first_call_is_no_changing_state():
    class Keeping(nn.Linear):
        scale = None

        def forward(self, inputs):
            if self.scale is None:
                self.scale = torch.full((6,), 0.5)
            return super().forward(inputs * self.scale)

    assert trained(replace(TASK, model=lambda: Keeping(6, 1))).loss < 10


class Counting(nn.Linear):
    """A model with state of its own."""

    seen = torch.zeros(1)

    def forward(self, inputs):
        self.seen = 0.9 * self.seen + inputs.mean().detach()
        return super().forward(inputs)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Counting(6, 1),
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten(1), nn.Linear(6, 1)
        ),
    ],
)
def test_a_model_that_changes_its_own_state_is_a_clear_error(model):
    with pytest.raises(TaskError, match=r"changes its own '(seen|1\.\w+)'.*GroupNorm"):
        trained(replace(TASK, model=model))


def test_a_recurrent_network_on_sequences_is_trained_too():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(1, 8, batch_first=True)
            self.out = nn.Linear(8, 1)

        def forward(self, sequences):
            return self.out(self.cell(sequences)[0][:, -1])

    sequences = torch.rand(64, 5, 1, generator=seeded())
    examples = Examples(sequences, sequences.sum(dim=1))
    task = Task("sum", Counter, lambda share: LocalSplit(examples, examples, examples), nn.functional.mse_loss)
    learner = prepare(task)
    before = evaluate(learner, learner.initial(), examples)["loss"]
    result = train(learner, learner.initial(), examples, Plan(50, seeded()))
    assert evaluate(learner, result.flat, examples)["loss"] < before / 10


def test_training_stops_where_the_check_says_so():
    class Cancelled(Exception):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        trained(TASK, check=check)
    assert len(calls) == 3


def test_every_epoch_sees_each_example_once():
    rows = torch.cat(list(batch_rows(10, 5, Plan(4, seeded()))))
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))


def test_a_member_with_less_than_a_batch_trains_on_what_it_has():
    rows = list(batch_rows(3, 64, Plan(2, seeded())))
    assert [sorted(row.tolist()) for row in rows] == [[0, 1, 2]] * 2


def test_a_model_that_does_not_take_the_data_is_one_clear_error():
    with pytest.raises(TaskError, match=r"do not fit \(inputs \(20, 6\), targets \(20, 1\)"):
        trained(replace(TASK, model=lambda: nn.Linear(7, 1)))


def test_a_loss_that_is_no_scalar_is_one_clear_error():
    with pytest.raises(TaskError, match="return the mean over the batch"):
        trained(replace(TASK, loss=lambda outputs, targets: (outputs - targets) ** 2))


def test_a_member_without_examples_is_one_clear_error():
    learner = prepare(TASK)
    none = Examples(torch.empty(0, 6), torch.empty(0, 1))
    with pytest.raises(TaskError, match="no training examples"):
        train(learner, learner.initial(), none, Plan(1, seeded()))
