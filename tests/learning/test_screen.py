import numpy as np
import pytest
import torch
from torch import nn

from node.learning.screen import Inputs, Judge, Memory, held_classes, near, new, remembered, skill, skilled, sound
from node.learning.task import Examples, LocalSplit, Task, prepare
from node.learning.trainer import Plan, train

CLASSES, SIZE = 4, 12


def examples(classes, count=400, seed=0, flipped=False):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]
    centres = 2.0 * torch.eye(CLASSES, SIZE)
    inputs = centres[targets] + 0.5 * torch.randn(count, SIZE, generator=generator)
    return Examples(inputs, CLASSES - 1 - targets if flipped else targets)


TASK = Task("blobs", lambda: nn.Linear(SIZE, CLASSES), lambda share: None, classes=CLASSES, learning_rate=0.2)
LEARNER = prepare(TASK)


def update(classes, seed, flipped=False):
    data = examples(classes, seed=seed, flipped=flipped)
    return train(LEARNER, LEARNER.initial(), data, Plan(60, torch.Generator().manual_seed(seed))).flat


def scene(*updates, held=(0, 1, 2, 3)):
    inputs = Inputs(tuple(range(len(updates))), 0, torch.stack(updates))
    return inputs, Judge(LEARNER, examples(held, seed=99))


def everybody(inputs):
    return torch.ones(len(inputs.members), dtype=torch.bool)


def test_a_member_judges_by_the_classes_it_has():
    assert held_classes(Judge(LEARNER, examples((1, 3)))).tolist() == [False, True, False, True]


def test_flipped_labels_show_as_missing_skill():
    all_classes = (0, 1, 2, 3)
    inputs, judge = scene(*(update(all_classes, s) for s in range(3)), update(all_classes, 3, flipped=True))
    assert skill(inputs, judge)[:3].min() > 0.9
    assert skill(inputs, judge)[3] < 0.1
    assert skilled(inputs, judge, everybody(inputs)).tolist() == [True, True, True, False]


def test_honest_peers_that_know_other_classes_pass():
    inputs, judge = scene(update((0, 1), 0), update((0, 2), 1), update((2, 3), 2), update((1, 3), 3), held=(0, 1))
    assert skilled(inputs, judge, everybody(inputs)).all()


def test_an_update_far_from_all_others_is_stopped():
    inputs, _ = scene(*(update((0, 1, 2, 3), s) for s in range(4)), 50 * torch.ones(LEARNER.spec.size))
    assert near(inputs, everybody(inputs)).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nonsense_is_not_sound(value):
    inputs, _ = scene(update((0, 1), 0), torch.full((LEARNER.spec.size,), value))
    assert sound(inputs).tolist() == [True, False]


def test_a_copy_of_somebody_elses_earlier_update_is_no_new_work():
    first, _ = scene(*(update((0, 1, 2, 3), s) for s in range(3)))
    memory = remembered(Memory.fresh(), first)
    second, _ = scene(*(update((0, 1, 2, 3), s) for s in (10, 11)), first.stacked[1])
    assert new(second, memory, everybody(second)).tolist() == [True, True, False]


def test_the_memory_counts_repeats_and_forgets_them_with_new_work():
    first, _ = scene(*(update((0, 1, 2, 3), s) for s in range(2)))
    memory = remembered(remembered(Memory.fresh(), first), first)
    assert memory.repeats.tolist() == [1, 1]
    other, _ = scene(first.stacked[0], update((0, 1, 2, 3), 9))
    assert remembered(memory, other).repeats.tolist() == [2, 0]
    assert memory.sketches.dtype == np.float32


def test_a_task_without_classes_is_judged_by_its_loss():
    task = Task("line", lambda: nn.Linear(2, 1), lambda share: None, nn.functional.mse_loss)
    learner = prepare(task)
    inputs = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    data = LocalSplit(*[Examples(inputs, inputs.sum(dim=1, keepdim=True))] * 3)
    good, bad = torch.tensor([0.0, 1.0, 1.01]), torch.tensor([0.0, -1.0, -1.0])
    judged = Judge(learner, data.validation)
    found = Inputs((0, 1, 2), 0, torch.stack([good, good, bad]))
    assert skilled(found, judged, everybody(found)).tolist() == [True, True, False]
