"""Disks that are full, and files that are no longer what was written."""

import contextlib
import hashlib
import shutil
import sqlite3
import time

import pytest

from tests.faults.cluster import MEMBERS, SMALL, lose_state
from tests.faults.leavings import kill_in

pytestmark = pytest.mark.faults


def flip(path, at=-1):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def fill(path):
    """Writes until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def refused(cluster, name, *arguments):
    """The error of a node that does not start."""
    recorded = len(cluster.records()[cluster.member(name)])
    node = cluster.start(name, None, *arguments)
    code, answer = node.end(180)
    assert code == 2, answer
    assert len(cluster.records()[cluster.member(name)]) == recorded
    return answer["error"]


def goes_on(cluster, name):
    before = cluster.round(name)
    cluster.start(name)
    cluster.until(lambda: cluster.round(name) > before, alive=[name])
    cluster.progress(MEMBERS, 2)


def test_full_disk(cluster, found):
    first, others = cluster.round(SMALL), [name for name in MEMBERS if name != SMALL]
    node, ballast = cluster.nodes[SMALL], cluster.homes[SMALL].path / "ballast"
    fill(ballast)
    cluster.until(lambda: node.process.poll() is not None, alive=others)
    code, answer = node.end()
    assert code == 2, cluster.log(SMALL)[-3000:]
    assert "No space left on device" in answer["error"] or "is full" in answer["error"], answer
    cluster.progress(others, 1)
    ballast.unlink()
    goes_on(cluster, SMALL)
    cluster.check(first, may_miss=[SMALL], slowed=[SMALL])
    found(f"reported: {answer['error'][:120]}")


def test_corrupted_outbox(cluster, found):
    first, home = cluster.round("carol"), cluster.homes["carol"]
    cluster.nodes["carol"].kill()
    for leftover in home.path.glob("outbox.sqlite*"):
        shutil.copy2(leftover, cluster.place / leftover.name)
    for leftover in home.path.glob("outbox.sqlite-*"):
        leftover.unlink()
    home.outbox.write_bytes(b"\x00" * 100 + home.outbox.read_bytes()[100:])
    said = refused(cluster, "carol")
    assert "outbox.sqlite" in said
    assert "restore it" in said
    for kept in cluster.place.glob("outbox.sqlite*"):
        shutil.move(kept, home.path / kept.name)
    goes_on(cluster, "carol")
    report = cluster.check(first, slowed=["carol"])
    found(f"reported, restored by hand; {report['steps_replayed']} steps replayed")


def test_corrupted_record(cluster, found):
    first, home = cluster.round("carol"), cluster.homes["carol"]
    cluster.made.wire(["carol"], ["chain"], loss=1.0)  # so that records wait
    cluster.until(lambda: cluster.status("carol")["records"]["pending"] >= 2, alive=["carol"])
    cluster.nodes["carol"].kill()
    cluster.made.heal()
    with contextlib.closing(sqlite3.connect(home.outbox)) as db, db:
        seq, entry = db.execute("select seq, entry from records where not confirmed order by seq limit 1").fetchone()
        false = entry[:30] + bytes([entry[30] ^ 1]) + entry[31:]
        db.execute("update records set entry = ? where seq = ?", (false, seq))
    assert "is not what was written: restore it" in refused(cluster, "carol")
    with contextlib.closing(sqlite3.connect(home.outbox)) as db, db:
        db.execute("update records set entry = ? where seq = ?", (entry, seq))
    goes_on(cluster, "carol")
    report = cluster.check(first, slowed=["carol"])
    found(f"reported, restored by hand; {report['steps_replayed']} steps replayed")


def test_corrupted_checkpoint(cluster, found):
    first, home = cluster.round("frank"), cluster.homes["frank"]
    left = kill_in(cluster, "frank", "training", waiting=0)  # what it announced is on the ledger
    (checkpoint,) = home.state.glob("checkpoint-*.safetensors")
    flip(checkpoint)
    said = refused(cluster, "frank")
    assert f"the checkpoint {checkpoint} is corrupt" in said
    lose_state(home)
    before = len(cluster.log("frank"))
    goes_on(cluster, "frank")
    went = [line for line in cluster.log("frank")[before:].splitlines() if "from snapshot" in line]
    assert went
    report = cluster.check(first, may_miss=["frank"], gaps=["frank"], slowed=["frank"])
    gaps = [(gap["from"], gap["to"]) for gap in report["gaps"]]
    found(f"reported; killed in round {left.round}; {went[-1]}; gaps: {gaps}")


def test_corrupted_update(cluster, found):
    first, home = cluster.round("erin"), cluster.homes["erin"]
    cluster.until(lambda: cluster.status("erin")["state"] == "gathering", alive=["erin"])
    cluster.nodes["erin"].kill()
    for payload in (home.state / "payloads").iterdir():
        flip(payload)
    before = len(cluster.log("erin"))
    goes_on(cluster, "erin")
    assert "the update of round" in cluster.log("erin")[before:]
    report = cluster.check(first, slowed=["erin"])
    found(f"reported, trained again with the same bits; {report['steps_replayed']} steps replayed")


def is_whole(cluster, name, cid):
    listed = cluster.operator("snapshot", "list", "--home", cluster.homes[name].path)["snapshots"]
    return next(one["whole"] for one in listed if one["cid"] == cid)


def test_corrupted_block(cluster, found):
    home, first = cluster.homes["dave"], cluster.round("dave")
    cluster.progress(MEMBERS, 4)
    cid = next(row for row in cluster.status("dave")["finished_rounds"] if row["round"] == first + 2)["snapshot"]
    folder = cluster.place / f"snapshot-{first}"
    cluster.operator("snapshot", "get", cid, "--home", home.path, "--out", folder)
    digest = hashlib.sha256((folder / "mixed.safetensors").read_bytes()).digest()
    (block,) = [path for path in home.ipfs.rglob("*.data") if hashlib.sha256(path.read_bytes()).digest() == digest]
    assert is_whole(cluster, "dave", cid)
    flip(block)
    assert not is_whole(cluster, "dave", cid)
    cluster.check(first)  # from another member's copy
    assert not is_whole(cluster, "dave", cid)
    cluster.revive()
    started = time.monotonic()  # dave reads every block
    cluster.until(lambda: f"snapshot {cid} was damaged on disk, and is whole again" in cluster.log("dave"))
    assert is_whole(cluster, "dave", cid)
    seconds = time.monotonic() - started
    cluster.progress(MEMBERS, 1)
    report = cluster.check(first, slowed=["dave"])
    found(f"audited from a copy; restored {seconds:.0f} s after the start; {report['steps_replayed']} steps replayed")
