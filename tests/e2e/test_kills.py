"""A member among equals that is killed before each of its durable writes, one life for each: real processes all.

Which writes there are an undisturbed run of the same session tells (tests/mortal.py), so none is forgotten.
"""

import json
import shutil
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger import Devnet, DevnetOptions, History
from node.agreement import open_session
from node.cli.app import cli
from node.home import Home
from tests.faults.calm_task import __file__ as calm_task
from tests.nodes import NodeProcess, make_home, make_session, running, start_all

pytestmark = pytest.mark.slow
PATIENCE_S = 300.0  # for what takes seconds on an idle machine
CALM = Path(calm_task)
FIRST = ("outbox insert belongs", "outbox insert starts")  # once in the life of a disk
LAST = "journal update checkpoint"  # when the last mix is in its closing record
NEEDED = {
    "file payload",
    "outbox insert records",
    "journal insert announcements",
    "file block",
    "journal insert checkpoint",
}


def answer(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def in_order(path):
    """The writes of an undisturbed run, each once: those that come but once at the ends; replicas while others live."""
    seen = dict.fromkeys(path.read_text().splitlines())
    assert seen.keys() > NEEDED
    between = [name for name in seen if name not in (*FIRST, LAST)]
    between.sort(key=lambda name: not name.startswith("pins"))
    return [*(name for name in FIRST if name in seen), *between, LAST]


def dies(home, session, write, *arguments, **options):
    """One life, up to its first write of this name."""
    mortal = {"module": "tests.mortal", "environment": {"FL_NODE_TEST_KILL": f"{write}:1"}}
    node = NodeProcess(home, session, "--no-mdns", *arguments, **mortal, **options)
    with running([node]):
        code, _ = node.end(PATIENCE_S)
    last = node.log.read_text().rstrip().splitlines()[-1]
    assert (code, last) == (-signal.SIGKILL, f"killed before: {write}"), node.log.read_text()[-3000:]


def records(opened):
    with History(opened.ledger, opened.session_id) as history:
        assert history.verify() > 0
        return history.records(gas=False)


def test_alone_it_ends_with_the_same_bits(chain, tmp_path):
    undisturbed, session, writes = make_home(tmp_path / "undisturbed"), tmp_path / "session.toml", tmp_path / "writes"
    opened = make_session(undisturbed, chain, session, rounds=20, quorum=1, members=1, snapshot_every=1)
    chain.save(tmp_path / "chain.json")
    shutil.copytree(undisturbed.path, tmp_path / "disturbed")
    disturbed = Home(tmp_path / "disturbed")
    node = NodeProcess(
        undisturbed, session, "--no-mdns", module="tests.mortal", environment={"FL_NODE_TEST_WRITES": str(writes)}
    )
    with running([node]):
        assert node.end(PATIENCE_S)[0] == 0
    expected = records(opened)
    with Devnet(DevnetOptions(block_time=0.5, free_gas=True, load=tmp_path / "chain.json")) as other:
        where = ("--rpc", other.url)
        for write in in_order(writes):
            dies(disturbed, session, write, *where)
        node = NodeProcess(disturbed, session, "--no-mdns", *where)
        with running([node]):
            code, ended = node.end(PATIENCE_S)
        found = records(open_session(session, other.url))
        report = answer("audit", "--session", session, *where, "--ipfs", disturbed.path)
    assert (code, ended["finished_round"], ended["records_pending"]) == (0, 20, 0)
    for column in ("round", "update_hash", "mixed_hash", "snapshot"):
        assert found[column].tolist() == expected[column].tolist(), column
    assert (report["clean"], report["gaps"], report["steps_replayed"]) == (True, [], 20)


def three(chain, place):
    """Three members, and their session of 30 rounds, in which nobody is so far behind that it leaves rounds out."""
    place.mkdir()
    homes, session = [make_home(place / name) for name in ("alice", "bob", "carol")], place / "session.toml"
    wishes = {"rounds": 30, "quorum": 3, "members": 3, "snapshot_every": 1, "task": f"{CALM}:task", "staleness": 100}
    return homes, session, make_session(homes[0], chain, session, **wishes)


def rounds_by_member(opened):
    return {int(member): rows["round"].tolist() for member, rows in records(opened).groupby("member")}


def test_among_three_nothing_is_lost_or_doubled(chain, tmp_path):
    homes, session, opened = three(chain, tmp_path / "undisturbed")
    writes = tmp_path / "writes"
    nodes = start_all(homes[:2], session, task=CALM)
    with running(nodes):
        watched = {"module": "tests.mortal", "environment": {"FL_NODE_TEST_WRITES": str(writes)}}
        nodes.append(NodeProcess(homes[2], session, "--no-mdns", "--peers", nodes[0].address(), task=CALM, **watched))
        assert [node.end(PATIENCE_S)[0] for node in nodes] == [0, 0, 0]
    expected = rounds_by_member(opened)
    homes, session, opened = three(chain, tmp_path / "disturbed")
    nodes = start_all(homes[:2], session, task=CALM)
    with running(nodes):
        peers = ("--peers", nodes[0].address(), "--peers", nodes[1].address())
        for write in in_order(writes):
            dies(homes[2], session, write, *peers, task=CALM)
        nodes.append(NodeProcess(homes[2], session, "--no-mdns", *peers, task=CALM))
        ends = [node.end(PATIENCE_S) for node in nodes]
    assert [(code, end["finished_round"], end["records_pending"]) for code, end in ends] == [(0, 30, 0)] * 3
    assert rounds_by_member(opened) == expected == {member: list(range(1, 31)) for member in range(3)}
    report = answer("audit", "--session", session, *(part for home in homes for part in ("--ipfs", home.path)))
    assert (report["clean"], report["gaps"]) == (True, [])
    assert report["steps_replayed"] == report["steps_total"] == 90
    assert not any(list(home.evidence.glob("*")) for home in homes if home.evidence.exists())
