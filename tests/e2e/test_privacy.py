"""A session with a privacy budget: real nodes, a real chain, one of them killed."""

import pytest
import trio

from ledger import History
from node.audit.run import AuditSettings, audit_session
from node.config import Privacy
from node.home import read_status
from node.learning.accounting import Budget, Release, spent
from tests.nodes import NodeProcess, make_home, make_session, running, start_all

pytestmark = pytest.mark.real
ROUNDS, PAID = 12, 8
BUDGET = Budget(100.0, 1e-5, "rdp")


def after(rounds):
    """What the accountant says after so many rounds of 20 steps, with batches of 20 of 400 examples."""
    return spent((Release(1.0, 0.05, 20 * rounds),), BUDGET)


@pytest.mark.slow
def test_budget_status_record_and_audit_agree_though_a_node_was_killed(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]
    path = tmp_path / "session.toml"
    privacy = Privacy(epsilon=1.0001 * after(PAID), noise_multiplier=1.0, accountant="rdp")
    opened = make_session(homes[0], chain, path, rounds=ROUNDS, snapshot_every=1, privacy=privacy)
    nodes = start_all(homes, path)
    with running(nodes):
        nodes[2].wait_for(lambda status: len(status.get("finished_rounds", [])) >= 3, 180)
        nodes[2].kill()
        nodes.append(NodeProcess(homes[2], path, "--peers", nodes[0].address(), "--no-mdns"))
        ends = [node.end(240) for node in (*nodes[:2], nodes[3])]
    assert [(code, answer["finished_round"]) for code, answer in ends] == [(0, ROUNDS)] * 3

    expected = [after(min(round, PAID)) for round in range(1, ROUNDS + 1)]
    recorded = {}
    with History(opened.ledger, opened.session_id) as history:
        for step in history.steps():
            recorded.setdefault(step.member, []).append(step.mix.epsilon)
    for home in homes:
        status = read_status(home)
        shown = {entry["round"]: entry["metrics"] for entry in status["finished_rounds"]}
        trained = {round for round, metrics in shown.items() if "epsilon" in metrics}
        assert len(trained) >= ROUNDS - (1 if home == homes[2] else 0)  # what was trained before the kill is not again
        assert all(shown[round]["epsilon"] == pytest.approx(expected[round - 1]) for round in trained)
        assert all(("train_loss" in shown[round]) == (round <= PAID) for round in trained)
        assert status["privacy"]["epsilon"] == pytest.approx(expected[-1])
        assert status["privacy"]["epsilon"] <= privacy.epsilon
        assert status["privacy"]["refused_rounds"] == ROUNDS - PAID
        assert recorded[status["member"]] == pytest.approx(expected, abs=1e-6)
        assert "round 9 is not trained" in (home.path / "node.log").read_text()
        assert status["finished_rounds"][-1]["metrics"]["test_loss"] < 4.0  # it was 15

    report = trio.run(audit_session, AuditSettings(path), lambda _line: None)
    assert report.clean
    assert report.steps_replayed == report.steps_total == 3 * ROUNDS
    assert report.json()["privacy"] == {
        "epsilon": pytest.approx(privacy.epsilon, abs=1e-6),
        "delta": privacy.delta,
        "spent": {str(member): pytest.approx(expected[-1], abs=1e-6) for member in range(3)},
    }
