from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from node.learning.screen import (
    Memory,
    as_skilled,
    familiar,
    first_of_its_kind,
    held_classes,
    masked_median,
    near,
    new,
    remembered,
    sketches_of,
    skill,
    skilled,
    sound,
    within_reach,
)
from node.learning.task import Examples, Task, prepare
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


def everybody(stacked):
    return torch.ones(len(stacked), dtype=torch.bool)


def ours(stacked):
    return torch.arange(len(stacked)) == 0


def skills(stacked, held=(0, 1, 2, 3), learner=LEARNER, judged=None):
    judged = judged or examples(held, seed=99)
    return skill(learner, stacked, judged.inputs, judged.targets, held_classes(judged.targets, CLASSES), ours(stacked))


def test_a_member_judges_by_the_classes_it_has():
    assert held_classes(examples((1, 3)).targets, CLASSES).tolist() == [False, True, False, True]


def test_flipped_labels_show_as_missing_skill():
    all_classes = (0, 1, 2, 3)
    stacked = torch.stack([*(update(all_classes, s) for s in range(3)), update(all_classes, 3, flipped=True)])
    seen = skills(stacked)
    assert seen[:3].min() > 0.9
    assert seen[3] < 0.1
    assert skilled(seen, ours(stacked), everybody(stacked)).tolist() == [True, True, True, False]


def test_honest_peers_that_know_other_classes_pass():
    stacked = torch.stack([update((0, 1), 0), update((0, 2), 1), update((2, 3), 2), update((1, 3), 3)])
    assert skilled(skills(stacked, held=(0, 1)), ours(stacked), everybody(stacked)).all()


def test_an_update_far_from_all_others_is_stopped():
    stacked = torch.stack([*(update((0, 1, 2, 3), s) for s in range(4)), 50 * torch.ones(LEARNER.spec.size)])
    close = near(torch.cdist(stacked, stacked), everybody(stacked), LEARNER.spec.size, Memory.fresh())
    assert close.tolist() == [True] * 4 + [False]


def test_an_update_is_not_far_while_it_is_no_farther_than_updates_usually_are():
    """At the end of a session steps are short, and an honest one of twice their length is no reason to be stopped."""
    step = torch.ones(LEARNER.spec.size) / LEARNER.spec.size**0.5
    stacked = torch.stack([0.01 * s * step for s in (0.0, 1.0, 2.0, 3.0, 9.0)])
    distances = torch.cdist(stacked, stacked)
    for usual, passes in ((0.0, False), (0.065, False), (0.075, True)):  # its median distance to the others is 0.07
        memory = replace(Memory.fresh(), distance=np.array([usual], np.float32))
        close = near(distances, everybody(stacked), LEARNER.spec.size, memory)
        assert close.tolist() == [True] * 4 + [passes]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nonsense_is_not_sound(value):
    stacked = torch.stack([update((0, 1), 0), torch.full((LEARNER.spec.size,), value)])
    assert sound(stacked, ours(stacked)).tolist() == [True, False]


def test_as_skilled_is_who_knows_what_we_know_but_for_what_the_examples_leave_open():
    own = torch.tensor([False, True, False, False])
    assert as_skilled(torch.tensor([0.85, 0.9, 0.86, 1.0]), own).tolist() == [False, True, True, True]


def met(stacked, round=1, memory=None):
    members = tuple(range(len(stacked)))
    return remembered(memory or Memory.fresh(), members, (round,) * len(stacked), sketches_of(stacked))


def test_a_copy_of_somebody_elses_earlier_update_is_no_new_work():
    first = torch.stack([update((0, 1, 2, 3), s) for s in range(3)])
    second = torch.stack([*(update((0, 1, 2, 3), s) for s in (10, 11)), first[1]])
    assert new(sketches_of(second), (0, 1, 2), (2, 2, 2), met(first), 1.0).tolist() == [True, True, False]


def test_the_same_update_is_no_new_work_in_another_round_but_welcome_in_its_own():
    stacked = torch.stack([update((0, 1, 2, 3), s) for s in range(2)])
    memory = met(stacked)
    assert new(sketches_of(stacked), (0, 1), (1, 2), memory, 1.0).tolist() == [True, False]
    assert met(stacked, 2, memory).rounds.tolist() == [2, 2]
    assert memory.sketches.dtype == np.float32


def test_of_several_that_are_the_same_the_first_counts():
    stacked = torch.stack([update((0, 1, 2, 3), s) for s in (0, 1, 2, 1, 1)])
    distances = torch.cdist(stacked, stacked)
    all_five, ours = everybody(stacked), torch.arange(5) == 0
    assert first_of_its_kind(distances, ours, all_five, 1.0).tolist() == [True, True, True, False, False]
    candidates = torch.tensor([True, False, True, True, True])
    assert first_of_its_kind(distances, ours, candidates, 1.0).tolist() == [True, True, True, True, False]
    assert first_of_its_kind(distances, ours, all_five, 0.0).all()  # nobody has moved: all are the same


@pytest.mark.parametrize("ours", [1, 3, 4])
def test_of_several_that_are_the_same_ours_counts_whoever_else_sent_it(ours):
    stacked = torch.stack([update((0, 1, 2, 3), s) for s in (0, 1, 2, 1, 1)])
    own = torch.arange(5) == ours
    passed = first_of_its_kind(torch.cdist(stacked, stacked), own, everybody(stacked), 1.0)
    assert passed.nonzero().flatten().tolist() == sorted([0, 2, ours])


def usual(*distances):
    memory = Memory.fresh()
    for round, distance in enumerate(distances, 1):
        memory = remembered(memory, (0,), (round,), torch.zeros(1, 64), distance)
    return memory


def test_what_is_much_farther_than_usual_is_not_familiar_and_before_the_first_round_everything_is():
    from_us = torch.tensor([0.0, 1.5, 1.7, 88.0])
    assert familiar(from_us, usual(1.0)).tolist() == [True, True, False, False]
    assert familiar(from_us, Memory.fresh()).all()
    assert within_reach(from_us, 1.0).tolist() == [True, True, True, False]
    assert within_reach(from_us, 0.0).all()


def test_the_usual_distance_follows_the_last_ones_and_grows_slowly():
    assert usual(2.0, 1.0).distance.tolist() == [1.5]
    assert usual(2.0, 100.0).distance.tolist() == [2.5]
    assert usual(2.0, 0.0).distance.tolist() == [2.0]  # nobody was there


def test_a_healed_partition_grows_together_within_a_few_rounds():
    memory, rounds = usual(1.0), 0
    while not familiar(torch.tensor([3.0]), memory)[0]:
        memory, rounds = remembered(memory, (0,), (rounds + 2,), torch.zeros(1, 64), 3.0), rounds + 1
    assert rounds <= 4


def test_the_median_of_some_is_the_lower_one_and_that_of_none_is_infinite():
    values = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    assert masked_median(values, mask).tolist() == [2.0, float("inf")]


def test_a_task_without_classes_is_judged_by_its_loss():
    task = Task("line", lambda: nn.Linear(2, 1), lambda share: None, nn.functional.mse_loss)
    inputs = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    good, bad = torch.tensor([0.0, 1.0, 1.01]), torch.tensor([0.0, -1.0, -1.0])
    stacked = torch.stack([good, good, bad])
    judged, held = Examples(inputs, inputs.sum(dim=1, keepdim=True)), torch.empty(0, dtype=torch.bool)
    seen = skill(prepare(task), stacked, judged.inputs, judged.targets, held, ours(stacked))
    assert skilled(seen, ours(stacked), everybody(stacked)).tolist() == [True, True, False]
