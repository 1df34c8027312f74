"""A machine that is lost takes no snapshot with it: real nodes, real processes, a home that is deleted."""

import json
import shutil
import signal

import pytest
from click.testing import CliRunner

from ledger import History
from node.cli.app import cli
from tests.nodes import make_home, make_session, running, start_all

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROUNDS = 100_000


def answer(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def finished(status):
    return len(status.get("finished_rounds", []))


def snapshots_of(opened, member):
    """Round and CID of what a member recorded."""
    with History(opened.ledger, opened.session_id) as history:
        rows = history.records(gas=False)
    mine = rows[(rows["member"] == member) & rows["snapshot"].notna()]
    return dict(zip(mine["round"], mine["snapshot"], strict=True))


def is_replicated(status):
    kept = status.get("snapshots", {})
    return kept.get("own", 0) > 0 and kept["missing"] == 0 and kept["under_replicated"] == 0


def test_after_a_session_a_machine_is_lost_and_the_audit_misses_nothing(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]
    session = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, session, rounds=6, quorum=3, members=3, snapshot_every=1)
    nodes = start_all(homes, session)
    with running(nodes):
        assert [node.end()[0] for node in nodes] == [0, 0, 0]
    statuses = [node.status() for node in nodes]
    lost = statuses[1]["member"]
    for status in statuses:
        kept = status["snapshots"]
        assert (kept["own"], kept["missing"], kept["under_replicated"]) == (6, 0, 0), kept
    assert sum(status["snapshots"]["replicas"] for status in statuses) == 18  # one copy of each besides the owner's
    shutil.rmtree(homes[1].path)
    report = answer("audit", "--session", session)
    assert (report["clean"], report["gaps"]) == (True, [])
    assert report["steps_replayed"] == report["steps_total"] == 18
    held = {
        row["cid"]: home
        for home in (homes[0], homes[2])
        for row in answer("snapshot", "list", "--home", home.path)["snapshots"]
    }
    for round, cid in snapshots_of(opened, lost).items():
        got = answer("snapshot", "get", cid, "--home", held[cid].path, "--out", tmp_path / f"round-{round}")
        assert got["cid"] == cid
        assert len(got["files"]) == 2


def test_what_a_lost_machine_kept_for_others_is_copied_again(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol", "dave")]
    session = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, session, rounds=ROUNDS, quorum=4, members=4, snapshot_every=2)
    nodes = start_all(homes, session, "--replica-patience", "5")
    with running(nodes):
        for node in nodes:
            node.wait_for(lambda status: finished(status) >= 10 and is_replicated(status))
        nodes[1].kill()
        lost = nodes[1].status()["member"]
        shutil.rmtree(homes[1].path)
        gone = nodes.pop(1)
        at = finished(nodes[0].status())
        for node in nodes:
            node.wait_for(lambda status: finished(status) >= at + 5, 90)  # the rounds go on
            node.wait_for(
                lambda status: status["snapshots"]["missing"] == 0 and status["snapshots"]["under_replicated"] == 0, 90
            )
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.end()[0] for node in nodes] == [0, 0, 0]
    assert gone.process.returncode == -signal.SIGKILL
    rest = [home for home in homes if home.path.exists()]
    held = [
        {row["cid"] for row in answer("snapshot", "list", "--home", home.path)["snapshots"] if row["whole"]}
        for home in rest
    ]
    recorded = snapshots_of(opened, lost)
    assert len(recorded) >= 4
    for cid in recorded.values():
        assert sum(cid in cids for cids in held) == 2  # as many copies as before, without the owner
    report = answer("audit", "--session", session)
    assert report["clean"] is True
    assert [coverage["not_found"] for coverage in report["coverage"]] == [0] * 4
