from pathlib import Path

import numpy as np
import pytest
import torch

from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, train
from node.learning.trust import Inputs, Judge, TrustSettings, TrustState, learn_row, recall, remember

TASK = load_task(f"{Path(__file__).parent / 'example_task.py'}:task")
LEARNER = prepare(TASK)
DATA = [TASK.data(Share(index=i)) for i in range(4)]
JUDGE = Judge(LEARNER, DATA[0].validation)
SETTINGS = TrustSettings()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def honest():
    return torch.stack(
        [train(LEARNER, LEARNER.initial(), d.train, Plan(60, seeded(i))).flat for i, d in enumerate(DATA)]
    )


def learned(stacked, members=(0, 1, 2, 3), own=0, state=None):
    return learn_row(state or TrustState.fresh(), Inputs(members, own, stacked), JUDGE, SETTINGS, seeded())


def test_equal_peers_share_equally():
    _, row = learned(honest()[:1].repeat(4, 1))
    np.testing.assert_allclose(row, 0.25, atol=1e-6)


def test_a_row_adds_up_to_one_and_the_liar_gets_next_to_nothing():
    stacked = honest()
    stacked[2] *= -5
    _, row = learned(stacked)
    assert abs(row.sum() - 1) < 1e-12
    assert row[2] < 1e-3
    assert row[[0, 1, 3]].min() > 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -3e38])
def test_nonsense_gets_exactly_nothing_and_spoils_nothing(value):
    stacked = honest()
    stacked[3] = value
    _, row = learned(stacked)
    assert row[3] == 0
    assert np.isfinite(row).all()
    assert row[:3].min() > 0.1


def test_the_same_inputs_give_the_same_bits():
    first, second = learned(honest())[1], learned(honest())[1]
    assert first.tobytes() == second.tobytes()


def test_a_permutation_of_peers_permutes_the_row():
    stacked, order = honest(), [2, 0, 3, 1]
    stacked[1] *= 0.5
    _, row = learned(stacked)
    _, permuted = learned(stacked[order], own=1)
    np.testing.assert_allclose(permuted, row[order], atol=1e-5)


def test_peers_are_remembered_by_member_index():
    stacked = honest()
    stacked[2] *= -5
    state, _ = learned(stacked, members=(3, 7, 8, 11))
    assert state.members.tolist() == [3, 7, 8, 11]
    assert recall(state, (8, 3, 99))[0] < recall(state, (8, 3, 99))[1]
    assert recall(state, (99,)).tolist() == [0.0]


def test_others_are_not_forgotten():
    state = remember(TrustState.fresh(), (5,), np.array([1.0], np.float32))
    state = remember(state, (2,), np.array([-1.0], np.float32))
    assert (state.members.tolist(), state.logits.tolist()) == ([2, 5], [-1.0, 1.0])
