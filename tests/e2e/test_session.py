"""Real nodes in processes of their own, on a real chain, over real libp2p."""

import json
import signal

import pytest
import trio

from node.audit.run import AuditSettings, audit_session
from node.home import read_status
from node.storage import open_snapshots
from tests.nodes import NodeProcess, make_home, make_session, replayable, running, start_all

pytestmark = pytest.mark.real


@pytest.fixture
def homes(tmp_path):
    return [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]


@pytest.fixture
def session_file(tmp_path):
    return tmp_path / "session.toml"


def recorded_rounds(opened, home):
    account = read_status(home)["account"]
    return opened.ledger.head(opened.session_id, account).next_round - 1


def test_three_nodes_finish_and_every_round_is_on_the_chain(finished_run):
    for (code, answer), home in zip(finished_run.answers, finished_run.homes, strict=True):
        assert code == 0
        assert answer == {"finished_round": 4, "rounds": 4, "records": 5, "records_pending": 0, "stopped": False}
        assert recorded_rounds(finished_run.opened, home) == 4
        rounds = read_status(home)["finished_rounds"]
        for entry in rounds:
            assert sum(cell["weight"] for cell in entry["inputs"]) == 65535
            assert {cell["member"] for cell in entry["inputs"]} == {0, 1, 2}
        assert rounds[-1]["metrics"]["test_loss"] < 0.05


def test_bytes_are_counted_per_peer_and_round(finished_run):
    for home in finished_run.homes:
        status = read_status(home)
        others = {other.path.name for other in finished_run.homes} - {home.path.name}
        assert len(status["peers"]) == len(others)
        for peer in status["peers"]:
            by_round = [entry["traffic"].get(peer["peer_id"], {}) for entry in status["finished_rounds"]]
            assert 0 < sum(cell.get("bytes_in", 0) for cell in by_round) <= peer["bytes_in"]
        assert status["bytes_in"] >= sum(peer["bytes_in"] for peer in status["peers"])


def test_a_killed_node_leaves_the_others_training_and_goes_on_where_it_was(chain, homes, session_file):
    opened = make_session(homes[0], chain, session_file, rounds=40)
    nodes = start_all(homes, session_file)
    with running(nodes):
        nodes[2].wait_for(lambda status: len(status.get("finished_rounds", [])) >= 3)
        nodes[2].kill()
        at = len(read_status(homes[0])["finished_rounds"])
        nodes[0].wait_for(lambda status: len(status["finished_rounds"]) >= min(at + 3, 40))
        again = NodeProcess(homes[2], session_file, "--peers", nodes[0].address(), "--no-mdns")
        nodes.append(again)
        ends = [node.end() for node in (*nodes[:2], again)]
    assert [code for code, _ in ends] == [0, 0, 0]
    assert [answer["finished_round"] for _, answer in ends] == [40, 40, 40]
    assert [recorded_rounds(opened, home) for home in homes] == [40, 40, 40]


def test_a_signal_ends_a_node_in_an_orderly_way(chain, homes, session_file):
    opened = make_session(homes[0], chain, session_file, rounds=100_000)
    nodes = start_all(homes, session_file)
    with running(nodes):
        nodes[0].wait_for(lambda status: len(status.get("finished_rounds", [])) >= 2)
        for node, number in zip(nodes, (signal.SIGTERM, signal.SIGINT, signal.SIGTERM), strict=True):
            node.signal(number)
        ends = [node.end() for node in nodes]
    for code, answer in ends:
        assert code == 0
        assert answer["stopped"] is True
        assert answer["records_pending"] == 0
    assert recorded_rounds(opened, homes[0]) == ends[0][1]["finished_round"]


def test_a_node_that_waits_for_its_quorum_says_so_and_can_be_stopped(chain, homes, session_file):
    make_session(homes[0], chain, session_file)
    node = NodeProcess(homes[0], session_file)
    with running([node]):
        node.wait_for(lambda status: status.get("state", "").startswith("waiting for members (1 of 3)"))
        node.signal(signal.SIGTERM)
        code, answer = node.end()
    assert code == 0
    assert answer["finished_round"] == 0


def test_without_its_quorum_a_node_gives_up_with_one_line(chain, homes, session_file):
    make_session(homes[0], chain, session_file)
    node = NodeProcess(homes[0], session_file, "--quorum-timeout", "1")
    with running([node]):
        code, answer = node.end()
    assert code == 2
    assert "fewer than 3 members came within 1 s" in answer["error"]


def test_members_find_each_other_by_mdns(chain, homes, session_file):
    make_session(homes[0], chain, session_file, quorum=2)
    nodes = [NodeProcess(home, session_file, "--listen", "/ip4/0.0.0.0/tcp/0") for home in homes[:2]]
    with running(nodes):
        ends = [node.end() for node in nodes]
    assert [code for code, _ in ends] == [0, 0]
    peers = json.loads((homes[0].path / "status.json").read_text())["peers"]
    assert len([peer for peer in peers if peer["member"] is not None]) == 1


def test_a_member_that_misbehaves_loses_its_weight(chain, homes, session_file):
    opened = make_session(homes[0], chain, session_file, rounds=6, experiment=True)
    honest = start_all(homes[:2], session_file)
    peers = ("--peers", honest[0].address(), "--no-mdns", "--misbehave", "sign_flip")
    nodes = [*honest, NodeProcess(homes[2], session_file, *peers)]
    with running(nodes):
        ends = [node.end() for node in nodes]
    assert [code for code, _ in ends] == [0, 0, 0]
    attacker = read_status(homes[2])["member"]
    for home in homes[:2]:
        last = read_status(home)["finished_rounds"][-1]
        weights = {cell["member"]: cell["weight"] for cell in last["inputs"]}
        assert weights[attacker] < 656  # one in a hundred
        assert last["metrics"]["test_loss"] < 0.05
    report = trio.run(audit_session, AuditSettings(session_file, chain.url), lambda _line: None).json()
    assert report["clean"] is True  # the attacker too records what it mixes
    assert report["steps_replayed"] == replayable(opened) >= 1  # rounds 5 and 6 have snapshots
    own = [cell for cell in read_status(homes[2])["finished_rounds"][-1]["inputs"] if cell["member"] == attacker]
    assert [cell["weight"] for cell in own] == [0]


@pytest.mark.slow
def test_members_that_send_differences_are_audited_in_full(chain, homes, session_file):
    opened = make_session(homes[0], chain, session_file, rounds=12, codec="topk:0.5", snapshot_every=1)
    nodes = start_all(homes, session_file)
    with running(nodes):
        nodes[2].wait_for(lambda status: len(status.get("finished_rounds", [])) >= 4)
        nodes[2].kill()  # what it had of others is lost, and fetched again
        again = NodeProcess(homes[2], session_file, "--peers", nodes[0].address(), "--no-mdns")
        nodes.append(again)
        ends = [node.end() for node in (*nodes[:2], again)]
    assert [code for code, _ in ends] == [0, 0, 0]
    assert read_status(homes[0])["finished_rounds"][-1]["metrics"]["test_loss"] < 0.1
    report = trio.run(audit_session, AuditSettings(session_file, chain.url), lambda _line: None).json()
    assert report["clean"] is True
    assert report["steps_replayed"] == replayable(opened) == report["steps_total"]

    async def files(home):
        async with open_snapshots(home.path) as snapshots:
            cid = read_status(home)["finished_rounds"][-1]["snapshot"]
            return {entry.name for entry in await snapshots.entries(cid)}

    assert {"update", "mixed.safetensors", "earlier-1", "earlier-2"} <= trio.run(files, homes[0])
