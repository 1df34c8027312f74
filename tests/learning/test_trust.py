from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from node.errors import ConfigError
from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, train
from node.learning.trust import Inputs, Judge, TrustSettings, TrustState, learn_row

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
    assert state.logits[2] < state.logits[[0, 1, 3]].min()


def test_others_are_not_forgotten():
    state, _ = learned(honest(), members=(3, 7, 8, 11))
    state, _ = learned(honest()[:2], members=(3, 4), state=state)
    assert state.members.tolist() == [3, 4, 7, 8, 11]


def test_the_state_survives_a_checkpoint(tmp_path):
    stacked = honest()
    state, _ = learned(stacked)
    np.savez(tmp_path / "state.npz", **asdict(state))
    with np.load(tmp_path / "state.npz") as stored:
        again = TrustState(**stored)
    assert learned(stacked, state=again)[1].tobytes() == learned(stacked, state=state)[1].tobytes()


def test_a_peer_that_never_does_new_work_is_tolerated_twice_and_then_gets_nothing():
    state, rows = TrustState.fresh(), []
    for round in range(4):
        stacked = honest() + 0.01 * torch.randn(4, LEARNER.spec.size, generator=seeded(round))
        stacked[3] = honest()[3]
        state, row = learned(stacked, state=state)
        rows.append(row)
    assert [bool(row[3] > 0) for row in rows] == [True, True, False, False]


def test_somebody_elses_earlier_update_gets_nothing():
    state, _ = learned(honest())
    stacked = honest() + 0.01 * torch.randn(4, LEARNER.spec.size, generator=seeded(1))
    stacked[3] = honest()[1]
    assert learned(stacked, state=state)[1][3] == 0


def test_members_of_a_personal_session_lean_on_those_whose_updates_help_them():
    stacked = honest()
    stacked[1:] += 0.03
    _, common = learned(stacked)
    _, row = learn_row(TrustState.fresh(), Inputs((0, 1, 2, 3), 0, stacked), JUDGE, TrustSettings("personal"), seeded())
    assert row[0] > common[0]


def test_an_unknown_objective_is_a_clear_error():
    with pytest.raises(ConfigError, match="unknown objective 'best'"):
        learn_row(TrustState.fresh(), Inputs((0,), 0, honest()[:1]), JUDGE, TrustSettings("best"), seeded())


def test_the_row_minimises_what_the_definition_says():
    stacked, strength = honest(), 0.3
    stacked[1] *= 0.99
    validation = JUDGE.validation
    outputs = torch.stack([validation.inputs @ flat[1:] + flat[0] for flat in stacked]).double()

    def objective(row):
        row = torch.as_tensor(row)
        loss = ((row @ outputs - validation.targets.squeeze(1)) ** 2).mean()
        return float(loss + strength * (row * (4 * row).log()).sum())

    _, row = learn_row(
        TrustState.fresh(), Inputs((0, 1, 2, 3), 0, stacked), JUDGE, TrustSettings(prior_strength=strength), seeded()
    )
    best = objective(row)
    for shift in np.eye(4):
        other = row + 0.01 * (shift - 0.25)
        assert objective(other / other.sum()) > best - 1e-6
