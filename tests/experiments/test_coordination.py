"""What is made of sessions with a coordinator: the counted times, the tables, and that nothing is filled in."""

from argparse import Namespace
from dataclasses import replace

import pytest

from node.errors import NodeError
from node.session.balance import FIRST_STEPS
from scripts.experiments import coordination
from scripts.experiments.coordination import FULL, QUICK, SLOW, SPEEDS, STEP_S, round_times, sections, simulated_key
from scripts.experiments.sessions import Case, rounds_of

pytestmark = pytest.mark.real  # plots are drawn


def test_balancing_takes_the_slow_ones_down_to_what_the_others_need():
    alike, balanced, unbalanced = (round_times(speeds) for speeds in SPEEDS)
    assert alike[1:] == [pytest.approx(3.0)] * (len(alike) - 1)
    assert unbalanced == [pytest.approx(36.0)] * len(unbalanced)
    assert alike[0] == pytest.approx(FIRST_STEPS * STEP_S), "nobody's speed is known"
    assert balanced[0] == pytest.approx(max(SLOW) * FIRST_STEPS * STEP_S)
    assert max(balanced[1:]) <= 3.0


def test_what_was_not_run_says_so(tmp_path):
    found = sections({}, FULL, tmp_path)
    assert found["failed"].count("not run") == 6 * 3 + 4 * 2
    assert "| 5 of 6, below the quorum | not run | not run | - | not run | - |" in found["failed"]
    assert found["failed"].endswith("-: sessions of real nodes are run with 0, 2, 3 and 4 failed workers only.")
    assert "| 3 of 6, the quorum | not run |" in found["failed"]
    assert "| 4 of 6, below the quorum | not run |" in found["failed"]
    assert found["topologies"].count("not run") == 5
    assert found["balancing"].count("not run") == 9
    assert {path.name for path in tmp_path.iterdir()} == {"balancing.png"}, "what is counted needs no run"


def real(case, accuracy, seconds=(1.0, 2.0, 4.0)):
    rounds = [{"round": i, "accuracy": accuracy, "seconds": each, "updates": 5} for i, each in enumerate(seconds, 1)]
    return {"key": case.key, "rounds": rounds, "seconds": 9.0}


def simulated(settings, accuracy, rounds=3):
    found = [{"round": i, "updates": 6, "accuracy": accuracy, "loss": 1.0} for i in range(1, rounds + 1)]
    return {"key": simulated_key(settings), "rounds": found, "seconds": 1.0}


def test_the_tables_show_what_was_run(tmp_path):
    rows = [
        simulated(QUICK.failing("iid", 4), 0.8),
        simulated(QUICK.failing("shards:2", 4), 0.7),
        real(QUICK.failing_nodes(4), 0.71),
        real(SPEEDS[0].nodes, 0.9),
        real(QUICK.compared_nodes("gossip"), 0.85),
        simulated(QUICK.led(), 0.86),
    ]
    found = sections({row["key"]: row for row in rows}, QUICK, tmp_path)
    assert "| 4 of 6, below the quorum | 80.00 | 70.00 | 71.00 | 3 | 3 |" in found["failed"]
    assert "| all alike | 1.0 | 3.0 | 90.00 (3 rounds) | 0.0 | 3.0 |" in found["balancing"]
    assert "| coordinator and workers | not run | 86.00 |" in found["topologies"]
    assert "| gossip, learned rows | 85.00 | not run |" in found["topologies"]
    assert {path.stem for path in tmp_path.iterdir()} == {"failed", "balancing", "topologies"}


def test_the_seconds_of_a_round_are_all_of_it():
    seen = {"train_s": 1.0, "commit_s": 0.5, "gather_s": 2.0, "mix_s": 0.25, "work": [1, 2]}
    statuses = [
        {"finished_rounds": [{"round": 1, "metrics": {"test_accuracy": accuracy}, **seen}]} for accuracy in (0.5, 0.7)
    ]
    [found] = rounds_of(statuses)
    assert found == {"round": 1, "accuracy": pytest.approx(0.6), "seconds": 3.75, "updates": 2}


def test_what_was_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(coordination, "run_sweep", lambda *_: [])
    monkeypatch.setattr(
        coordination, "run_simulation", lambda settings, _folder: {**simulated(settings, 0.5), "settings": {}}
    )
    ran = []

    def run_case(case, _folder):
        ran.append(case)
        if len(ran) == 2:
            raise NodeError("stopped")
        return {**real(case, 0.5), "settings": {}}

    monkeypatch.setattr(coordination, "run_case", run_case)
    out, options = tmp_path / "rows.jsonl", Namespace(data_dir=None)
    with pytest.raises(NodeError, match="stopped"):
        coordination.run_missing(FULL, options, out)
    coordination.run_missing(FULL, options, out)
    assert len(ran) == len(coordination.node_cases(FULL)) + 1
    assert ran[1] == ran[2], "and what failed is"


def test_other_settings_are_other_rows():
    case = Case("coordinated")
    assert len({case.key, replace(case, failed=1).key, replace(case, throttle_s=(0.1,)).key}) == 3
    assert simulated_key(FULL.led()) != simulated_key(FULL.led(2))
