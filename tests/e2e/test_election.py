"""A coordinator that is gone for good, real nodes on a real chain: the next member goes on, and the audit agrees."""

import pytest

from node.home import read_status
from tests.e2e.test_coordinated import audit, finished, homes, make, session_file  # noqa: F401
from tests.nodes import NodeProcess, running, start_all

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_the_next_member_coordinates_and_the_old_coordinator_comes_back_as_a_worker(chain, homes, session_file):  # noqa: F811
    make(homes[0], chain, session_file, {"election_s": 6.0}, rounds=40, round_deadline_s=10.0, quorum=1)
    nodes = start_all(homes, session_file, "--throttle", "0.02", "--publish")
    boss, *others = nodes
    with running(nodes):
        boss.wait_for(lambda status: finished(status) >= 4)
        boss.kill()
        by_index = {node.status()["member"]: node for node in others}
        second = by_index[min(by_index)]
        second.wait_for(lambda status: any(len(each["inputs"]) > 2 for each in status["finished_rounds"]), 120.0)
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
    boss, *others = nodes
    with running(nodes):
        boss.wait_for(lambda status: finished(status) >= 3)
        boss.kill()
        first, *rest = sorted(others, key=lambda node: node.status()["member"])
        first.wait_for(lambda status: any(len(each["inputs"]) > 2 for each in status["finished_rounds"]), 120.0)
        listen = first.address().split("/p2p/")[0]
        first.kill()
        again = NodeProcess(first.home, session_file, "--no-mdns", "--listen", listen, "--publish")
        nodes.append(again)
        ends = [node.end(120.0) for node in (again, *rest)]
    assert [code for code, _ in ends] == [0] * 3
    assert [answer.get("finished_round") for _, answer in ends[1:]] == [25, 25]
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
