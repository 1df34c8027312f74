from dataclasses import replace
from pathlib import Path

import pytest
import torch

from node.config import Aggregation
from node.errors import ConfigError
from node.learning import aggregation
from node.learning.task import Share, prepare
from node.learning.trainer import Plan, evaluate, train
from node.simulation.coordinated import CoordinatedSettings, simulate_coordinated
from node.simulation.run import generator_of
from node.simulation.settings import SimulationSettings
from tests.learning import example_task

EXAMPLE = f"{Path(example_task.__file__)}:task"
TASK = replace(example_task.task, metrics={}, classes=2)


@pytest.fixture(autouse=True)
def classes(monkeypatch):
    """Two classes, so that there is an accuracy: whether the flow is above its middle."""

    def data(share):
        split = example_task.data(share)
        return replace(split, **{n: labelled(getattr(split, n)) for n in ("train", "validation", "test")})

    def labelled(rows):
        return replace(rows, targets=(rows.targets[:, 0] > example_task.TRUE_BIAS).long())

    task = replace(TASK, model=lambda: torch.nn.Linear(6, 2), data=data, loss=torch.nn.functional.cross_entropy)
    monkeypatch.setattr("node.simulation.coordinated.load_task", lambda _name: task)
    return task


SETTINGS = CoordinatedSettings(EXAMPLE, workers=4, quorum=2, rounds=5)


def test_it_is_the_nodes_own_training_and_averaging(classes):
    learner = prepare(classes, 1)
    model, rule = learner.initial(), Aggregation()
    chances = [generator_of(SimulationSettings(seed=1), member) for member in range(4)]
    parts = [classes.data(Share(None, member, 4, "iid", 1)) for member in range(4)]
    for found in simulate_coordinated(SETTINGS):
        plans = [Plan(classes.steps_per_round(400), chance) for chance in chances]
        updates = [train(learner, model, p.train, plan).flat for p, plan in zip(parts, plans, strict=True)]
        weights = aggregation.trust_row(rule, model, updates, [400.0] * 4)
        model = aggregation.settle(rule, model, updates, weights[1:], None).flat
        seen = evaluate(learner, model, parts[0].test)
        assert (found.updates, found.accuracy) == (4, pytest.approx(seen["accuracy"], abs=0.006))
        assert found.loss == pytest.approx(seen["loss"], rel=1e-3)


def test_down_to_the_quorum_rounds_go_on_with_who_is_left_and_below_they_stop():
    def updates(failed):
        return [each.updates for each in simulate_coordinated(replace(SETTINGS, failed=failed))]

    assert updates(0) == [4, 4, 4, 4, 4]
    assert updates(2) == [4, 4, 4, 2, 2]
    assert updates(3) == [4, 4, 4]


@pytest.mark.parametrize("rule", ["fedadam", "median"])
def test_the_same_settings_give_the_same_rounds(rule):
    runs = [list(simulate_coordinated(replace(SETTINGS, rule=rule))) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != list(simulate_coordinated(replace(SETTINGS, rule=rule, seed=2)))


def test_a_quorum_that_can_never_be_is_refused():
    with pytest.raises(ConfigError, match="quorum 5"):
        next(simulate_coordinated(replace(SETTINGS, quorum=5)))
