"""A chain that goes away stops no training and loses no record."""

import json
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ledger import Devnet, DevnetOptions, History
from node.cli.app import cli
from node.home import read_status
from tests.ledger.faulty_rpc import FaultyRpc
from tests.nodes import make_home, make_session, running, start_all

pytestmark = pytest.mark.real


def finished(status):
    return len(status.get("finished_rounds", []))


@pytest.mark.slow
def test_training_goes_on_without_the_chain_and_every_record_arrives_once_and_in_order(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob")]
    with FaultyRpc(chain.url) as rpc:
        opened = make_session(homes[0], rpc, tmp_path / "session.toml", rounds=60, quorum=2, members=2)
        nodes = start_all(homes, tmp_path / "session.toml")
        with running(nodes):
            nodes[0].wait_for(lambda status: finished(status) >= 3)
            rpc.fault = "garbage"
            before = finished(read_status(homes[0]))
            nodes[0].wait_for(lambda status: finished(status) >= before + 10)
            status = nodes[0].wait_for(lambda status: status["records"]["last_error"] and status)
            assert status["records"]["pending"] > 0
            rpc.fault = None
            ends = [node.end() for node in nodes]
        for code, answer in ends:
            assert code == 0
            assert (answer["finished_round"], answer["records"], answer["records_pending"]) == (60, 61, 0)
        for home in homes:
            assert opened.ledger.head(opened.session_id, read_status(home)["account"]).next_round == 61


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, 60])
def test_a_chain_that_stops_and_starts_again_with_its_state_gets_every_record_once_and_in_order(tmp_path, seconds):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob")]
    options = DevnetOptions(block_time=0.5, free_gas=True, port=free_port())
    with ExitStack() as stack:
        chain = stack.enter_context(Devnet(options))
        opened = make_session(
            homes[0], chain, tmp_path / "session.toml", rounds=100_000, quorum=2, members=2, snapshot_every=1
        )
        nodes = start_all(homes, tmp_path / "session.toml")
        with running(nodes):
            nodes[0].wait_for(lambda status: status.get("records", {}).get("confirmed", 0) >= 3)
            chain.save(tmp_path / "state.json")
            chain.stop()
            before, stopped_at = finished(nodes[0].status()), time.monotonic()
            nodes[0].wait_for(lambda _: time.monotonic() >= stopped_at + seconds, seconds + 10)
            status = nodes[0].wait_for(lambda status: status["records"]["last_error"] and status)
            assert finished(status) > before  # how many rounds that are is the machine's business
            assert status["records"]["pending"] > 0
            stack.enter_context(Devnet(replace(options, load=tmp_path / "state.json")))
            nodes[0].wait_for(lambda status: status["records"]["confirmed"] > finished(status) - 5)
            for node in nodes:
                node.signal(signal.SIGTERM)
            ends = [node.end() for node in nodes]
        assert [code for code, _ in ends] == [0, 0]
        assert not any(home.evidence.exists() for home in homes)
        for home, (_, answer) in zip(homes, ends, strict=True):
            assert (answer["records"], answer["records_pending"]) == (answer["finished_round"] + 1, 0)
            head = opened.ledger.head(opened.session_id, read_status(home)["account"])
            assert head.next_round == answer["finished_round"] + 1
        with History(opened.ledger, opened.session_id) as history:
            assert history.verify() == sum(answer["records"] for _, answer in ends)
            for member, own in history.records(gas=False).groupby("member"):
                assert own["round"].tolist() == list(range(1, len(own) + 1)), member
        audited = CliRunner().invoke(cli, ["audit", "--json", "--session", str(tmp_path / "session.toml")])
        report = json.loads(audited.stdout)
        assert (audited.exit_code, report["clean"], report["gaps"]) == (0, True, [])
        assert report["steps_replayed"] == report["steps_total"] == sum(answer["finished_round"] for _, answer in ends)
