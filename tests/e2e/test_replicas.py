"""A machine that is lost takes no snapshot with it: real nodes, real processes, a home that is deleted."""

import json
import shutil
import signal
import time

import pytest
from click.testing import CliRunner

from ledger import History
from node.cli.app import cli
from node.storage.catalogue import Catalogue
from tests.nodes import NodeProcess, make_home, make_session, running, start_all

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


def kept_in(home):
    """CIDs that a home has pinned."""
    path = home.ipfs / "pins.sqlite"
    return {pin.cid for pin in Catalogue(path).pins()} if path.exists() else set()


def wait_for_copies(cids, homes, copies, seconds=180):
    """Until so many of the homes keep each of these."""
    deadline = time.monotonic() + seconds
    while any(sum(cid in kept for kept in map(kept_in, homes)) < copies for cid in cids):
        assert time.monotonic() < deadline, [(cid, [cid in kept_in(home) for home in homes]) for cid in cids]
        time.sleep(0.5)


def test_after_a_session_a_machine_is_lost_and_the_audit_misses_nothing(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]
    session = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, session, rounds=6, quorum=3, members=3, snapshot_every=1)
    nodes = start_all(homes, session)
    with running(nodes):
        assert [node.end(180)[0] for node in nodes] == [0, 0, 0]
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


def test_what_a_lost_machine_kept_is_copied_again(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol", "dave")]
    session = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, session, rounds=ROUNDS, quorum=4, members=4, snapshot_every=2)
    nodes = start_all(homes, session, "--replica-patience", "5")
    with running(nodes):
        for node in nodes:
            node.wait_for(lambda status: finished(status) >= 8, 180)
        recorded = {cid for member in range(4) for cid in snapshots_of(opened, member).values()}
        assert len(recorded) >= 12
        wait_for_copies(recorded, homes, 2)
        at = finished(nodes[0].status())
        gone, lost = nodes.pop(1), homes.pop(1)
        gone.kill()
        shutil.rmtree(lost.path)
        wait_for_copies(recorded, homes, 2)  # its own, and what it kept for others
        for node in nodes:
            node.wait_for(lambda status: finished(status) >= at + 3, 180)  # the rounds went on
            node.signal(signal.SIGTERM)
        assert [node.end(180)[0] for node in nodes] == [0, 0, 0]
    rows = [row for home in homes for row in answer("snapshot", "list", "--home", home.path)["snapshots"]]
    assert recorded <= {row["cid"] for row in rows if row["whole"]}
    assert answer("audit", "--session", session)["clean"] is True


def test_a_home_that_lost_its_snapshots_gets_them_back_from_the_others(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob")]
    session = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, session, rounds=ROUNDS, quorum=2, members=2, snapshot_every=2)
    nodes = start_all(homes, session)
    with running(nodes):
        nodes[1].wait_for(lambda status: finished(status) >= 6, 180)
        member = nodes[1].status()["member"]
        recorded = nodes[1].wait_for(lambda _: set(snapshots_of(opened, member).values()), 180)
        wait_for_copies(recorded, homes, 2)
        nodes[1].kill()
        shutil.rmtree(homes[1].ipfs)
        nodes[1] = NodeProcess(homes[1], session, "--no-mdns", "--peers", nodes[0].address())
        wait_for_copies(recorded, [homes[1]], 1)
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.end(180)[0] for node in nodes] == [0, 0]
