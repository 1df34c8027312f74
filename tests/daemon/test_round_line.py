"""The line that a node says of each round: what was measured, and how many updates were mixed."""

from node.daemon.run import round_line
from node.messages import ABSENT, Input
from node.session.gossip import RoundReport


def line(metrics, *inputs):
    return round_line(RoundReport(1, tuple(inputs), metrics, {}, 0.0, 0.0, 0.0, 0.0, None), 4)


def test_a_coordinator_mixes_its_workers_updates_and_not_its_own():
    said = line({"validation_accuracy": 0.5, "validation_loss": 1.0}, Input(0, 0, 0), Input(1, 65_535, 0))
    assert said == "round 1 of 4: validation accuracy 0.5000; mixed 1 update"


def test_a_task_without_accuracy_shows_its_loss():
    metrics = {"train_loss": 0.5, "validation_loss": 0.25, "test_loss": 0.125}
    said = line(metrics, Input(0, 40_000, 0), Input(1, 25_535, 0), Input(2, 0, ABSENT))
    assert said == "round 1 of 4: train loss 0.5000, validation loss 0.2500, test loss 0.1250; mixed 2 updates"


def test_nothing_is_left_empty_where_nothing_was_measured():
    assert line({}, Input(0, 0, 0), Input(1, 65_535, 0)) == "round 1 of 4: mixed 1 update"
    said = line({"epsilon": 1.0}, Input(0, 65_535, 0))
    assert said == "round 1 of 4: epsilon 1.000 (not trained: the budget does not pay for it); mixed 1 update"
