"""A coordinator that is gone for good, real nodes on a real chain: the next member goes on, and the audit agrees."""

import shutil

import pytest

from node.home import read_status
from tests.e2e import test_served_data
from tests.e2e.test_coordinated import audit, finished, homes, make, session_file  # noqa: F401
from tests.nodes import NodeProcess, running, start_all

pytestmark = [pytest.mark.real, pytest.mark.slow]


def elected(nodes, after=4, rounds=1):
    """Kills the coordinator after so many rounds; who is elected, once so many of its own are over, and the rest.

    The next in the ledger's order is; what has other members' updates in it is a round that it coordinated.
    """
    boss, *others = nodes
    boss.wait_for(lambda status: finished(status) >= after)
    boss.kill()
    first, *rest = sorted(others, key=lambda node: node.status()["member"])
    first.wait_for(lambda status: sum(len(each["inputs"]) > 2 for each in status["finished_rounds"]) >= rounds, 120.0)
    return first, rest


def test_the_next_member_coordinates_and_the_old_coordinator_comes_back_as_a_worker(chain, homes, session_file):  # noqa: F811
    make(homes[0], chain, session_file, {"election_s": 6.0}, rounds=40, round_deadline_s=10.0, quorum=1)
    nodes = start_all(homes, session_file, "--throttle", "0.02", "--publish")
    others = nodes[1:]
    with running(nodes):
        second, _ = elected(nodes)
        old = NodeProcess(homes[0], session_file, "--no-mdns", "--peers", second.address(), "--throttle", "0.02")
        nodes.append(old)
        ends = [node.end(100.0) for node in (old, *others)]
    assert [(code, answer.get("finished_round")) for code, answer in ends[1:]] == [(0, 40)] * 3
    assert ends[0][0] == 0
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    rounds = read_status(second.home)["finished_rounds"]
    assert rounds[-1]["metrics"]["test_loss"] < 0.05
    absent = {cell["member"]: cell["lag"] for cell in rounds[-1]["inputs"]}
    assert absent[0] == 0, "the old coordinator is a worker now"


def test_an_elected_coordinator_is_killed_and_comes_back_as_whatever_the_ledger_says(chain, homes, session_file):  # noqa: F811
    make(homes[0], chain, session_file, {"election_s": 10.0}, rounds=25, round_deadline_s=10.0, quorum=1)
    nodes = start_all(homes, session_file, "--throttle", "0.02", "--publish")
    with running(nodes):
        first, rest = elected(nodes, after=3)
        listen = first.address().split("/p2p/")[0]
        first.kill()
        again = NodeProcess(first.home, session_file, "--no-mdns", "--listen", listen, "--publish")
        nodes.append(again)
        ends = [node.end(120.0) for node in (again, *rest)]
    assert [code for code, _ in ends] == [0] * 3
    assert [answer.get("finished_round") for _, answer in ends[1:]] == [25, 25]
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]


def test_an_elected_coordinator_that_lost_its_disk_goes_on_after_its_last_recorded_round(chain, homes, session_file):  # noqa: F811
    make(homes[0], chain, session_file, {"election_s": 6.0}, rounds=25, round_deadline_s=10.0, quorum=1)
    nodes = start_all(homes, session_file, "--throttle", "0.02", "--publish")
    with running(nodes):
        first, rest = elected(nodes, after=3, rounds=3)
        listen = first.address().split("/p2p/")[0]
        for node in (first, *rest):  # nobody is there to take over meanwhile
            node.kill()
        shutil.rmtree(first.home.state)
        for file in first.home.path.glob("outbox.sqlite*"):
            file.unlink()
        again = NodeProcess(first.home, session_file, "--no-mdns", "--listen", listen, "--publish")
        nodes.append(again)
        nodes += [NodeProcess(node.home, session_file, "--no-mdns", "--peers", again.address()) for node in rest]
        ends = [node.end(120.0) for node in nodes[4:]]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 25)] * 3
    assert len(read_status(first.home)["finished_rounds"][-1]["inputs"]) > 2, "it coordinates to the end"
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]


FEDYOGI, SGD = {"rule": "fedyogi", "server_rate": 0.3}, {"rule": "sgd", "server_rate": 0.1}


@pytest.mark.parametrize(("rules", "update"), [(FEDYOGI, "parameters"), (SGD, "gradients")])
def test_who_is_elected_begins_the_optimizers_state_anew(chain, homes, session_file, rules, update):  # noqa: F811
    chosen = {"election_s": 6.0, "accumulate": 3, **rules}
    make(homes[0], chain, session_file, chosen, rounds=25, round_deadline_s=10.0, quorum=1, update=update)
    nodes = start_all(homes, session_file, "--throttle", "0.05", "--publish")
    boss, *others = nodes
    with running(nodes):
        boss.wait_for(lambda status: finished(status) >= 4)
        boss.kill()
        ends = [node.end(150.0) for node in others]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 25)] * 3
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    assert report["steps_replayed"] >= report["steps_total"] - 3, "all but those around the death"


def test_learners_keep_their_splits_when_who_gave_them_is_gone(chain, homes, session_file, tmp_path):  # noqa: F811
    file = tmp_path / "served_flow.py"
    file.write_text(test_served_data.TASK)
    chosen = ("--task", f"{file}:task", "--no-mdns", "--publish", "--throttle", "0.02")
    session = {"task": f"{file}:task", "rounds": 40, "members": 3, "data": "served", "quorum": 1}
    make(homes[0], chain, session_file, {"election_s": 6.0}, **session, round_deadline_s=10.0)
    boss = NodeProcess(homes[0], session_file, *chosen, "--data-dir", str(tmp_path))
    nodes = [boss]
    with running(nodes):
        nodes += [NodeProcess(home, session_file, *chosen, "--peers", boss.address()) for home in homes[1:]]
        boss.wait_for(lambda status: finished(status) and len(status["finished_rounds"][-1].get("work", [])) == 3)
        second, (third, fourth) = elected(nodes)
        fourth.kill()
        again = NodeProcess(fourth.home, session_file, *chosen, "--peers", second.address())
        nodes.append(again)
        at = finished(again.status())
        again.wait_for(lambda status: finished(status) > at or status["state"] == "training", 60.0)
        old = NodeProcess(homes[0], session_file, *chosen, "--data-dir", str(tmp_path), "--peers", second.address())
        nodes.append(old)
        ends = [node.end(120.0) for node in (old, second, third, again)]
    assert [code for code, _ in ends] == [0] * 4
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    work = read_status(second.home)["finished_rounds"][-1]["work"]
    assert sorted(one["member"] for one in work) == sorted(node.status()["member"] for node in (third, fourth))
