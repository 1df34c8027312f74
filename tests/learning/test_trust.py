from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from node.errors import ConfigError
from node.learning import mapped
from node.learning.many import Pool
from node.learning.screen import familiar
from node.learning.task import Share, Task, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, train
from node.learning.trust import (
    BLOCKS,
    Evidence,
    Inputs,
    TrustSettings,
    TrustState,
    balanced_loss,
    descend,
    is_better,
    mixture_loss,
)
from node.learning.weigher import Judge, Seat, Weigher, learn_row

TASK = load_task(f"{Path(__file__).parent / 'example_task.py'}:task")
LEARNER = prepare(TASK)
DATA = [TASK.data(Share(index=i)) for i in range(4)]
JUDGE = Judge(LEARNER, DATA[0].validation)
SETTINGS = TrustSettings()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(*steps):
    plans = [Plan(count, seeded(i)) for i, count in enumerate(steps)]
    return torch.stack([train(LEARNER, LEARNER.initial(), d.train, p).flat for d, p in zip(DATA, plans, strict=True)])


def honest():
    return trained(60, 60, 60, 60)


def inputs(stacked, members=(0, 1, 2, 3), own=0, rounds=None):
    return Inputs(members, rounds or (1,) * len(members), own, stacked)


def learned(stacked, members=(0, 1, 2, 3), own=0, state=None, rounds=None):
    return learn_row(state or TrustState.fresh(), inputs(stacked, members, own, rounds), JUDGE, SETTINGS, seeded())


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


PERSONAL = TrustSettings("personal")  # learned whatever the evidence: without it a common row is equal, and proves less


@pytest.mark.parametrize("settings", [SETTINGS, PERSONAL], ids=["common", "personal"])
def test_equal_peers_share_equally(settings):
    same = honest()[:1].repeat(4, 1)
    _, row = learn_row(TrustState.fresh(), inputs(same), JUDGE, settings, seeded())
    np.testing.assert_allclose(row, 0.25, atol=1e-6)


@pytest.mark.parametrize("settings", [SETTINGS, PERSONAL], ids=["common", "personal"])
def test_the_same_inputs_give_the_same_bits(settings):
    rows = [learn_row(TrustState.fresh(), inputs(honest()), JUDGE, settings, seeded())[1] for _ in range(2)]
    assert rows[0].tobytes() == rows[1].tobytes()
    assert (len(set(rows[0].tolist())) == 4) is (settings is PERSONAL)


@pytest.mark.parametrize("settings", [SETTINGS, PERSONAL], ids=["common", "personal"])
def test_a_permutation_of_peers_permutes_the_row(settings):
    stacked, order = honest(), [2, 0, 3, 1]
    stacked[1] *= 0.5
    stacked[2] *= 0.98
    _, row = learn_row(TrustState.fresh(), inputs(stacked), JUDGE, settings, seeded())
    _, permuted = learn_row(TrustState.fresh(), inputs(stacked[order], own=1), JUDGE, settings, seeded())
    np.testing.assert_allclose(permuted, row[order], atol=1e-5)
    assert settings is SETTINGS or np.ptp(row[row > 0]) > 1e-3


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
    later = {"rounds": (2, 2, 2, 2)}
    assert learned(stacked, state=again, **later)[1].tobytes() == learned(stacked, state=state, **later)[1].tobytes()


def met_again_with_the_same_update(rounds_of_the_last):
    state, weights = TrustState.fresh(), []
    for round, last in enumerate(rounds_of_the_last, start=1):
        stacked = honest() + 0.01 * torch.randn(4, LEARNER.spec.size, generator=seeded(round))
        stacked[3] = honest()[3]
        state, row = learned(stacked, state=state, rounds=(round, round, round, last))
        weights.append(bool(row[3] > 0))
    return weights


def test_a_peer_that_sends_old_work_as_that_of_a_new_round_gets_nothing():
    assert met_again_with_the_same_update((1, 2, 3, 4)) == [True, False, False, False]


def test_a_peer_that_is_behind_keeps_its_weight_while_it_says_so():
    assert met_again_with_the_same_update((1, 1, 1)) == [True, True, True]


def test_attackers_who_are_the_majority_of_one_cohort_do_not_set_the_measure():
    state, _ = learned(honest())
    stacked = honest() + 0.01 * torch.randn(4, LEARNER.spec.size, generator=seeded(1))
    stacked[1:] += torch.randn(3, LEARNER.spec.size, generator=seeded(2))
    assert learned(stacked, state=state, rounds=(2, 2, 2, 2))[1].tolist() == [1, 0, 0, 0]


def test_who_trained_longer_than_the_others_is_far_and_counts_unless_it_went_the_wrong_way():
    state, _ = learned(trained(4, 4, 4, 4))
    stacked, rounds = trained(5, 5, 60, 5), (2,) * 4
    assert not familiar(torch.cdist(stacked, stacked)[0], state.memory())[2]
    assert learned(stacked, state=state, rounds=rounds)[1].tolist() == [0.25] * 4
    stacked[2] = 2 * stacked[0] - stacked[2]
    assert learned(stacked, state=state, rounds=rounds)[1][2] == 0


def test_somebody_elses_earlier_update_gets_nothing():
    state, _ = learned(honest())
    stacked = honest() + 0.01 * torch.randn(4, LEARNER.spec.size, generator=seeded(1))
    stacked[3] = honest()[1]
    assert learned(stacked, state=state, rounds=(2, 2, 2, 2))[1][3] == 0


def test_without_evidence_a_common_row_is_exactly_equal():
    assert learned(honest())[1].tolist() == [0.25] * 4


def test_with_evidence_a_common_row_is_not():
    stacked = honest()
    stacked[2] += 0.5 * stacked[0].norm() / LEARNER.spec.size**0.5
    settings = TrustSettings(screened=False, prior_strength=0.01)
    _, row = learn_row(TrustState.fresh(), inputs(stacked), JUDGE, settings, seeded())
    assert row[2] == row.min() < 0.2


def test_a_personal_row_needs_no_evidence():
    _, row = learn_row(TrustState.fresh(), inputs(honest()), JUDGE, TrustSettings("personal"), seeded())
    assert len(set(row.tolist())) == 4


@pytest.mark.parametrize(("gain", "better"), [(0.5, False), (5.0, True), (-5.0, False), (float("nan"), False)])
def test_better_is_four_standard_errors_of_paired_differences(gain, better):
    noise = torch.tensor([1.0, -1.0]).repeat(BLOCKS // 2)
    error = noise.std() / BLOCKS**0.5
    others = torch.randn(BLOCKS, generator=seeded())  # what both have in common does not count
    assert bool(is_better(others - gain * error - noise, others)) is better


def test_members_of_a_personal_session_lean_on_those_whose_updates_help_them():
    stacked = honest()
    stacked[1:] += 0.03
    _, common = learned(stacked)
    _, row = learn_row(TrustState.fresh(), inputs(stacked), JUDGE, TrustSettings("personal"), seeded())
    assert row[0] > common[0]


def test_an_unknown_objective_is_a_clear_error():
    with pytest.raises(ConfigError, match="unknown objective 'best'"):
        learn_row(TrustState.fresh(), inputs(honest()[:1], (0,)), JUDGE, TrustSettings("best"), seeded())


def test_the_row_minimises_what_the_definition_says():
    stacked, strength = honest(), 0.3
    stacked[1] *= 0.99
    validation = JUDGE.validation
    outputs = torch.stack([validation.inputs @ flat[1:] + flat[0] for flat in stacked]).double()

    def objective(row):
        row = torch.as_tensor(row)
        loss = ((row @ outputs - validation.targets.squeeze(1)) ** 2).mean()
        return float(loss + strength * (row * (4 * row).log()).sum())

    wishes = TrustSettings("personal", prior_strength=strength)
    _, row = learn_row(TrustState.fresh(), inputs(stacked), JUDGE, wishes, seeded())
    best = objective(row)
    for shift in np.eye(4):
        other = row + 0.01 * (shift - 0.25)
        assert objective(other / other.sum()) > best - 1e-6


def seats(stacked):
    return [Seat(TrustState.fresh(), inputs(stacked, own=i), i, seeded(i)) for i in range(4)]


@pytest.mark.parametrize("settings", [SETTINGS, PERSONAL], ids=["common", "personal"])
def test_many_members_learn_the_rows_that_each_learns_alone(settings):
    stacked, parts = honest(), [DATA[i].validation for i in range(4)]
    together = Weigher(LEARNER, Pool.of(parts), settings).learn_rows(seats(stacked))
    for i, (state, row) in enumerate(together):
        alone = learn_row(TrustState.fresh(), inputs(stacked, own=i), Judge(LEARNER, parts[i]), settings, seeded(i))
        np.testing.assert_allclose(row, alone[1], rtol=1e-5)
        np.testing.assert_array_equal(state.sketches, alone[0].sketches)
        assert bool(np.ptp(row) > 1e-3) is (settings is PERSONAL)


@pytest.mark.parametrize("objective", ["common", "personal"])
def test_a_row_of_models_with_dropout_depends_on_the_seed_only(objective):
    def model():
        return torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))

    learner = prepare(replace(TASK, model=model))
    stacked = torch.randn(3, learner.spec.size, generator=seeded())
    given, judge = inputs(stacked, (0, 1, 2)), Judge(learner, DATA[0].validation)
    rows = [
        learn_row(TrustState.fresh(), given, judge, TrustSettings(objective=objective), seeded())[1].tolist()
        for _ in range(3)
    ]
    assert rows[0] == rows[1] == rows[2]


def test_a_step_that_is_recorded_and_played_back_learns_the_same_bits(monkeypatch):
    stacked, pool = honest(), Pool.of([DATA[i].validation for i in range(4)])
    plain = Weigher(LEARNER, pool, PERSONAL).learn_rows(seats(stacked))
    recorded = []
    genuine = mapped.recorded
    monkeypatch.setattr(mapped, "recorded", lambda *given: recorded.append(given) or genuine(*given))
    monkeypatch.setattr(mapped, "WARM", 15)  # of the 60 steps that a personal row takes
    played = Weigher(LEARNER, pool, PERSONAL).learn_rows(seats(stacked))
    assert recorded
    assert [row.tobytes() for _, row in played] == [row.tobytes() for _, row in plain]


def test_a_step_is_the_one_of_the_reference():
    """The definition once more in NumPy: cross-entropy among held classes, gradient by finite differences."""
    generator = np.random.default_rng(0)
    module = torch.nn.Linear(5, 4)
    learner = prepare(Task("reference", lambda: module, lambda share: None, classes=4))
    stacked = generator.normal(size=(3, 24))
    images, targets = generator.normal(size=(40, 5)), generator.integers(0, 3, 40)  # nobody has class 3
    logits, strength = np.array([0.2, -0.1, -0.1]), 0.3

    def row_of(values):
        return np.exp(values) / np.exp(values).sum()

    def loss(row):
        mixture = row @ stacked
        bias, weight = mixture[:4], mixture[4:].reshape(4, 5)
        predicted = (images @ weight.T + bias)[:, :3]
        predicted -= np.log(np.exp(predicted).sum(axis=1, keepdims=True))
        return np.mean([-predicted[targets == c, c].mean() for c in range(3)])

    row = row_of(logits)
    slope = np.array([(loss(row + 1e-6 * e) - loss(row - 1e-6 * e)) / 2e-6 for e in np.eye(3)])
    expected = logits - (slope - row @ slope + strength * logits)
    expected -= expected.mean()
    seen = Evidence(
        *(torch.tensor(stacked, dtype=torch.float32), torch.ones(3, dtype=torch.bool)),
        *(torch.tensor(images, dtype=torch.float32), torch.tensor(targets)),
        *(torch.tensor([True, True, True, False]), torch.tensor(strength)),
    )
    found = descend(mixture_loss(learner, "common"), torch.tensor(logits, dtype=torch.float32), seen)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_the_balanced_loss_counts_every_class_the_same():
    predicted = torch.tensor([[2.0, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])
    held = torch.tensor([True, True, False])
    both = [torch.nn.functional.cross_entropy(predicted[i : i + 1, :2], torch.tensor([i])) for i in (0, 1)]
    found = balanced_loss(predicted, torch.tensor([0, 1, 1]), held)
    torch.testing.assert_close(found, (both[0] + both[1]) / 2)
