"""A coordinated session of real nodes in processes of their own, on a real chain, over real libp2p, audited."""

import json
import signal

import pytest
import trio

from node.audit.run import AuditSettings, audit_session
from node.home import read_status
from node.wishes import CoordinationWishes
from tests.nodes import NodeProcess, make_home, make_session, running, start_all

pytestmark = pytest.mark.real
NAMES = ("boss", "alice", "bob", "carol")


@pytest.fixture
def homes(tmp_path):
    return [make_home(tmp_path / name) for name in NAMES]


@pytest.fixture
def session_file(tmp_path):
    return tmp_path / "session.toml"


def make(home, chain, path, coordination=None, **wishes):
    choices = {"topology": "coordinated", "quorum": 2, "members": 3, "snapshot_every": 1, **wishes}
    return make_session(home, chain, path, coordination=CoordinationWishes(**(coordination or {})), **choices)


def audit(session_file, chain):
    report = trio.run(audit_session, AuditSettings(session_file, chain.url), lambda _line: None)
    return report.json()


def finished(status):
    return len(status.get("finished_rounds", []))


@pytest.mark.parametrize(
    ("rule", "loss"),
    [
        pytest.param("fedavg", 0.05, marks=pytest.mark.slow),
        pytest.param("sgd", 6.0, marks=pytest.mark.slow),
        pytest.param("fedadam", 4.0, marks=pytest.mark.slow),
        pytest.param("trimmed_mean", 0.05, marks=pytest.mark.slow),
        pytest.param("geometric_median", 0.05, marks=pytest.mark.slow),
    ],
)
def test_everybody_ends_with_the_coordinators_model_and_the_audit_replays_every_step(
    chain, homes, session_file, rule, loss
):
    chosen = {"rule": rule, "server_rate": 0.1 if rule == "sgd" else 0.5, "faulty": 1, "accumulate": 5}
    update = "gradients" if rule == "sgd" else "parameters"
    make(homes[0], chain, session_file, chosen, rounds=4, quorum=3, update=update)
    nodes = start_all(homes, session_file)
    with running(nodes):
        ends = [node.end() for node in nodes]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 4)] * 4
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    assert (report["steps_replayed"], report["steps_total"], report["gaps"]) == (16, 16, [])
    last = [read_status(home)["finished_rounds"][-1] for home in homes]
    assert {entry["metrics"]["test_loss"] for entry in last} != set()
    assert last[0]["metrics"]["test_loss"] < loss
    work = last[0]["work"]
    assert sorted(one["member"] for one in work) == [1, 2, 3]
    assert all(one["steps"] > 0 and one["training_s"] > 0 and one["round_trip_s"] > 0 for one in work)
    if rule == "sgd":
        shares = {entry["member"]: entry["weight"] for entry in last[0]["inputs"] if entry["member"]}
        examples = {one["member"]: one["examples"] for one in work}
        assert {m: w * sum(examples.values()) for m, w in shares.items()} == {
            m: n * sum(shares.values()) for m, n in examples.items()
        }, "the row has the very proportions of the examples"


def test_a_worker_and_the_coordinator_are_killed_and_come_back(chain, homes, session_file):
    make(homes[0], chain, session_file, rounds=30, round_deadline_s=10.0)
    nodes = start_all(homes, session_file, "--throttle", "0.02")
    boss, alice, bob, carol = nodes
    with running(nodes):
        boss.wait_for(lambda status: finished(status) >= 3)
        carol.kill()
        at = finished(boss.status())
        boss.wait_for(lambda status: finished(status) >= at + 3)
        carol = NodeProcess(homes[3], session_file, "--peers", boss.address(), "--no-mdns")
        nodes.append(carol)
        boss.wait_for(lambda status: finished(status) >= at + 5)
        boss.kill()
        listen = boss.status()["addresses"][0].split("/p2p/")[0]
        boss = NodeProcess(homes[0], session_file, "--no-mdns", "--listen", listen)
        nodes.append(boss)
        ends = [node.end() for node in (boss, alice, bob, carol)]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 30)] * 4
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    assert not [gap for gap in report["gaps"] if gap["member"] == 0]
    rounds = read_status(homes[0])["finished_rounds"]
    lags = [{cell["member"]: cell["lag"] for cell in entry["inputs"]} for entry in rounds]
    carols = read_status(homes[3])["member"]
    assert -128 in [row.get(carols) for row in lags[1:]]
    assert lags[-1][carols] == 0
    assert rounds[-1]["metrics"]["test_loss"] < 0.05


@pytest.mark.slow
def test_stopping_the_coordinator_ends_the_session_for_everybody(chain, homes, session_file):
    make(homes[0], chain, session_file, rounds=100_000)
    nodes = start_all(homes, session_file)
    with running(nodes):
        nodes[0].wait_for(lambda status: finished(status) >= 2)
        nodes[0].signal(signal.SIGTERM)
        ends = [node.end() for node in nodes]
    assert [code for code, _ in ends] == [0] * 4
    assert len({answer["finished_round"] for _, answer in ends}) == 1
    assert all(answer["records_pending"] == 0 for _, answer in ends)
    assert audit(session_file, chain)["clean"]


@pytest.mark.slow
def test_a_coordinator_that_is_stopped_below_its_quorum_contradicts_nothing_when_all_start_again(
    chain, homes, session_file
):
    make(homes[0], chain, session_file, rounds=8, round_deadline_s=5.0, members=2)
    boss, alice, bob = nodes = start_all(homes[:3], session_file, "--throttle", "0.1", "--stop-timeout", "1")
    with running(nodes):
        boss.wait_for(lambda status: finished(status) >= 2)
        bob.kill()
        boss.wait_for(lambda status: "quorum" in status["state"])
        boss.signal(signal.SIGTERM)
        ends = [node.end() for node in (boss, alice)]
    assert [code for code, _ in ends] == [0, 0]
    assert ends[1][1]["finished_round"] == ends[0][1]["finished_round"] < 8
    listen, peers = boss.address().split("/p2p/")[0], ("--no-mdns", "--peers", boss.address())
    nodes = [NodeProcess(homes[0], session_file, "--no-mdns", "--listen", listen)]
    nodes += [NodeProcess(home, session_file, *peers) for home in homes[1:3]]
    with running(nodes):
        ends = [node.end() for node in nodes]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 8)] * 3
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    assert not [file for home in homes[:3] for file in home.evidence.glob("*")]


@pytest.mark.slow
def test_beyond_the_maximum_a_worker_is_refused(chain, homes, session_file):
    opened = make(homes[0], chain, session_file, {"maximum": 1}, rounds=1000, quorum=1)
    nodes = start_all(homes[:2], session_file)
    with running(nodes):
        nodes[0].wait_for(lambda status: finished(status) >= 1)
        registered = nodes[1].status()["registration"]
        agreed = {"maximum": 1, "update": "parameters", "rule": "fedavg"}
        assert registered == {"role": "worker", "workers": 1, "gone": 0, **agreed}
        said = nodes[1].log.read_text()
        assert "member 1 of session" in said
        assert "waiting for a model, without a coordinator for 600 s at most" in said
        assert "worker; 1 workers so far, at most 1; update parameters, rule fedavg" in said
        late = NodeProcess(homes[2], session_file, "--peers", nodes[0].address(), "--no-mdns")
        nodes.append(late)
        code, answer = late.end()
    assert code == 2
    assert "has 1 workers and takes at most 1" in answer["error"]
    assert len(opened.ledger.members(opened.session_id)) == 2


def test_roles_are_checked_before_anything_is_joined(chain, homes, session_file):
    opened = make(homes[0], chain, session_file)
    node = NodeProcess(homes[1], session_file, "--role", "coordinator")
    with running([node]):
        code, answer = node.end()
    assert code == 2
    assert "is a worker of session" in answer["error"]
    assert not opened.ledger.members(opened.session_id)


@pytest.mark.slow
def test_below_the_quorum_the_coordinator_says_so(chain, homes, session_file):
    make(homes[0], chain, session_file, rounds=1000, quorum=2, round_deadline_s=2.0)
    nodes = start_all(homes[:3], session_file)
    with running(nodes):
        nodes[0].wait_for(lambda status: finished(status) >= 1)
        nodes[2].kill()
        status = nodes[0].wait_for(lambda status: "below the quorum" in status["state"] and status)
        assert "giving up in" in status["state"]
    assert "below its quorum" in (homes[0].path / "node.log").read_text()
    assert json.dumps(status["finished_rounds"])
