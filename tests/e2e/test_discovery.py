"""Members that find each other through a tracker, the distributed directory or the ledger alone, in real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from node.home import Home
from node.network.addresses import parse_peer_address
from tests.nodes import PASSPHRASE, REPOSITORY, NodeProcess, make_home, make_session, running

pytestmark = pytest.mark.real

ALONE = ("--no-mdns",)


class TrackerProcess(NodeProcess):
    """`fl-node tracker` in a process of its own."""

    def __init__(self, home: Home, *arguments: str) -> None:
        self.home, self.log = home, home.path / "node.log"
        home.path.mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "-m", "node", "-v", "tracker", "--json", "--home", str(home.path)]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0", *arguments]
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, cwd=REPOSITORY
            )


@contextmanager
def tracker(place, *arguments):
    node = TrackerProcess(Home(place), *arguments)
    with running([node]):
        yield node


@pytest.fixture
def homes(tmp_path):
    return [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]


@pytest.fixture
def session_file(tmp_path):
    return tmp_path / "session.toml"


def members_seen(status):
    return {peer["member"] for peer in status.get("peers", []) if peer["connected"] and peer["member"] is not None}


def sees(count):
    return lambda status: len(members_seen(status)) >= count


def metric(page: str, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", page, re.MULTILINE)[1])


def read_page(status) -> str:
    with urllib.request.urlopen(status["metrics_url"], timeout=10) as response:
        return response.read().decode()


def test_three_nodes_find_each_other_through_the_session_s_tracker_and_one_that_moved_is_found_again(
    chain, homes, session_file, tmp_path
):
    with tracker(tmp_path / "tracker", "--metrics-port", "0", "--relay") as meeting:
        make_session(homes[0], chain, session_file, rounds=100_000, trackers=(meeting.address(),))
        through = ("--relay", meeting.address())
        nodes = [NodeProcess(home, session_file, *ALONE, *(through if n else ())) for n, home in enumerate(homes)]
        with running(nodes):
            for node in nodes:
                node.wait_for(sees(2))
            circuit = f"{meeting.address()}/p2p-circuit/p2p/{nodes[1].status()['peer_id']}"
            assert nodes[1].status()["addresses"][1] == circuit
            before = nodes[2].address()
            nodes[2].kill()
            nodes[0].wait_for(lambda status: not sees(2)(status))
            nodes.append(NodeProcess(homes[2], session_file, *ALONE))
            for node in (nodes[0], nodes[1], nodes[3]):
                node.wait_for(sees(2))
            assert nodes[3].address() != before
            for node in (nodes[0], nodes[1], nodes[3]):
                node.signal(signal.SIGTERM)
            assert [node.end()[0] for node in (nodes[0], nodes[1], nodes[3])] == [0, 0, 0]
        page = read_page(meeting.status())
        assert metric(page, "fl_node_tracker_members") == 3
        assert metric(page, "fl_node_tracker_announces_total") >= 4
        assert metric(page, "fl_node_tracker_look_ups_total") >= 4
        assert metric(page, "fl_node_relay_reservations") == 2
        assert metric(page, "fl_node_tracker_bytes_per_member_hour") > 0
        assert metric(page, "fl_node_tracker_announce_seconds_total") > 0
        meeting.signal(signal.SIGTERM)
        code, answer = meeting.end()
    assert code == 0
    assert answer["announces"] >= 4
    assert parse_peer_address(answer["addresses"][0]).peer_id == answer["peer_id"]


@pytest.mark.slow
def test_a_node_finds_the_others_through_the_distributed_directory_alone(chain, homes, session_file, tmp_path):
    """The only peer that it is told of takes part in another session."""
    elsewhere = make_home(tmp_path / "elsewhere")
    make_session(elsewhere, chain, tmp_path / "other.toml")
    make_session(homes[0], chain, session_file, rounds=3, quorum=3)
    meeting = NodeProcess(elsewhere, tmp_path / "other.toml", *ALONE, "--dht")
    with running([meeting]):
        at = ("--dht", "--peers", meeting.address())
        nodes = [NodeProcess(home, session_file, *ALONE, *at) for home in homes]
        with running(nodes):
            assert [node.end()[0] for node in nodes] == [0, 0, 0]
        assert members_seen(meeting.status()) == set()


@pytest.mark.slow
def test_members_meet_through_the_ledger_alone_and_the_page_of_metrics_says_what_the_status_says(
    chain, homes, session_file
):
    opened = make_session(homes[0], chain, session_file, rounds=100_000, quorum=2)
    first = NodeProcess(homes[0], session_file, *ALONE, "--publish", "--metrics-port", "0")
    with running([first]):
        at = parse_peer_address(first.address()).address
        second = NodeProcess(homes[1], session_file, *ALONE)
        with running([second]):
            first.wait_for(lambda status: len(status.get("finished_rounds", [])) >= 2)
            assert [member.addresses for member in opened.ledger.members(opened.session_id)] == [(at,), ()]
            other = second.wait_for(lambda status: status.get("peer_id"))
            second.signal(signal.SIGTERM)
            assert second.end()[0] == 0
        first.wait_for(lambda status: not members_seen(status))
        settled = first.status()
        page = read_page(settled)
        first.signal(signal.SIGTERM)
        assert first.end()[0] == 0
    (peer,) = [peer for peer in first.status()["peers"] if peer["peer_id"] == other]
    assert metric(page, f'fl_node_received_bytes_total{{peer="{other}"}}') == peer["bytes_in"]
    assert metric(page, f'fl_node_sent_bytes_total{{peer="{other}"}}') == peer["bytes_out"]
    assert metric(page, "fl_node_round") >= 2


def test_a_tracker_shows_its_status_and_stops(tmp_path):
    with tracker(tmp_path / "tracker") as meeting:
        meeting.address()
        environment = {**os.environ, "FL_NODE_PASSPHRASE": PASSPHRASE}

        def command(*words):
            done = subprocess.run(
                [sys.executable, "-m", "node", *words, "--home", str(tmp_path / "tracker"), "--json"],
                capture_output=True,
                cwd=REPOSITORY,
                env=environment,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        assert command("status")["running"] is True
        assert command("stop") == {"stopped": True, "was_running": True}
        assert meeting.end()[0] == 0
