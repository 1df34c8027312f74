"""What is made of real nodes' runs: who counts, what is compared, what is said when something is missing."""

import pytest

from node.errors import NodeError
from node.simulation.results import key
from scripts.experiments.nodes import node_cell, node_key, nodes_table, outcome, run_missing


def row(accuracy, weight, of):
    return {"key": of, "common_accuracy": accuracy, "std_over_members": 0.001, "attacker_weight": weight}


def line(node, simulated):
    cell, fixed = node_cell("ipm"), node_cell("ipm", "fixed")
    rows = [row(*node, node_key(cell)), row(*simulated, key(cell)), row(0.5, 0.2, key(fixed))]
    return nodes_table({each["key"]: each for each in rows}, ["ipm"]).splitlines()[-1]


def test_without_runs_the_table_says_so():
    assert nodes_table({}, ["ipm"]).splitlines()[-1] == f"| ipm |{' not run |' * 6}"


def test_outcomes_are_the_same_within_half_a_point():
    assert (
        line((0.92, 0.0), (0.917, 0.005)) == "| ipm | 92.00 ± 0.10 | 91.70 ± 0.10 | 0.00 | 0.50 | 50.00 ± 0.10 | yes |"
    )
    assert line((0.92, 0.0), (0.914, 0.0)).endswith("| **no** (+0.60 accuracy, +0.00 weight) |")
    assert line((0.92, 0.05), (0.92, 0.0)).endswith("| **no** (+0.00 accuracy, +5.00 weight) |")


def status(member, accuracies):
    rounds = [
        {"round": i, "metrics": {"test_loss": 1 - accuracy, "test_accuracy": accuracy}}
        for i, accuracy in enumerate(accuracies, 1)
    ]
    return {"member": member, "finished_rounds": rounds}


STATUSES = [status(0, [0.8, 0.9]), status(1, [0.1, 0.1]), status(2, [0.6, 0.7])]
WEIGHTS = {1: {0: 0.2, 2: 0.1}, 2: {0: 0.0, 2: 0.02}}


def test_the_attacker_itself_does_not_count():
    found = outcome(STATUSES, WEIGHTS, attacker=1, rounds=2)
    assert found["members"] == [0, 2]
    assert found["common_accuracy"] == pytest.approx(0.8)
    assert found["std_over_members"] == pytest.approx(0.1)
    assert found["attacker_weight"] == pytest.approx(0.01)
    assert found["curves"]["common"] == pytest.approx([0.7, 0.8])


@pytest.mark.parametrize("weights", [{1: WEIGHTS[1]}, {**WEIGHTS, 2: {0: 0.0}}])
def test_a_run_that_is_not_whole_on_the_ledger_is_no_result(weights):
    with pytest.raises(NodeError, match="rounds are missing"):
        outcome(STATUSES, weights, attacker=1, rounds=2)


def test_a_member_that_did_not_finish_is_named():
    with pytest.raises(NodeError, match=r"of members \[2\]"):
        outcome([*STATUSES[:2], status(2, [0.6])], WEIGHTS, attacker=1, rounds=2)


def test_what_was_run_is_not_run_again(tmp_path, monkeypatch):
    cells = [node_cell("ipm"), node_cell("copy")]
    ran = []

    def nodes(cell):
        ran.append(cell.attack)
        if len(ran) == 2:
            raise NodeError("out of luck")
        return {"key": node_key(cell), "settings": {}}

    def measured(settings):
        ran.append(settings.sharing)
        return {"key": key(settings), "settings": {}}

    monkeypatch.setattr("scripts.experiments.nodes.run_nodes", nodes)
    monkeypatch.setattr("node.simulation.sweeps.measured", measured)
    out = tmp_path / "nodes.jsonl"
    with pytest.raises(NodeError, match="out of luck"):
        run_missing(cells, [], out)
    run_missing(cells, ["learned"], out)
    run_missing(cells, ["learned", "fixed"], out)
    assert ran == ["ipm", "copy", "learned", "copy", "learned", "fixed", "fixed"]
