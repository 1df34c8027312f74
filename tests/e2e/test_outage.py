"""A chain that goes away stops no training and loses no record."""

import pytest

from node.home import read_status
from tests.ledger.faulty_rpc import FaultyRpc
from tests.nodes import make_home, make_session, running, start_all

pytestmark = pytest.mark.real


def finished(status):
    return len(status.get("finished_rounds", []))


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
