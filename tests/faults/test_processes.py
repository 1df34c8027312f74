"""Nodes that are killed or stand still."""

import random
import signal
import time

import pytest

from tests.faults.cluster import MEMBERS
from tests.faults.leavings import kill_in, left_by

pytestmark = pytest.mark.faults
PHASES = {  # as `Left.phase` tells it, and the write before which its victim dies; None: when its status says so
    "bob": ("training", None),
    "carol": ("gathering", None),
    "dave": ("committing", "outbox insert records"),
    "erin": ("recorded, not announced", "journal insert announcements"),
    "frank": ("mixing", "mixed"),
    "grace": ("saved, not over", "file checkpoint"),
    "heidi": ("gathering", "pins insert pins of {member}"),  # its mix is known, the snapshot's blocks are on the disk
}
TOGETHER = [("bob", "dave"), ("carol", "erin"), ("frank", "heidi"), ("grace", "alice")]


def kill_before(cluster, name, write):
    """Kills a node at any moment, and again just before a write; what it left then."""
    cluster.nodes[name].kill()
    write = write.format(member=cluster.member(name))
    node = cluster.start(name, {"FL_NODE_TEST_KILL": f"{write}:2"})
    others = [other for other in MEMBERS if cluster.nodes[other].process.poll() is None and other != name]
    cluster.until(lambda: node.process.poll() is not None, alive=others)
    assert node.process.poll() == -signal.SIGKILL, cluster.log(name)[-3000:]
    left = left_by(cluster.homes[name], node.log)
    assert left.last_word == f"killed before: {write}"
    return left


def kill(cluster, name):
    if name not in PHASES:
        cluster.nodes[name].kill()
        return left_by(cluster.homes[name], cluster.nodes[name].log)
    phase, write = PHASES[name]
    left = kill_in(cluster, name, phase) if write is None else kill_before(cluster, name, write)
    assert left.phase == phase, left
    return left


def test_kill_9_at_any_phase(cluster, found):
    """Every member once, or twice; two are away at a time."""
    first, chance, rounds = cluster.round("carol"), random.Random(7), {}
    for victims in TOGETHER:
        others = [name for name in MEMBERS if name not in victims]
        time.sleep(chance.uniform(0, 2))
        left = {name: kill(cluster, name) for name in victims}
        cluster.progress(others, 1)
        for name in victims:
            cluster.start(name)
        cluster.until(
            lambda left=left: all(cluster.round(name) >= one.round for name, one in left.items()), alive=MEMBERS
        )
        assert min(one.round for one in left.values()) > max(rounds.values(), default=0)
        rounds |= {name: one.round for name, one in left.items()}
    assert set(rounds) == set(MEMBERS)
    cluster.progress(MEMBERS, 1)
    report = cluster.check(first, slowed=MEMBERS)
    found(f"killed in rounds {rounds}; {report['steps_replayed']} steps replayed")


def test_frozen_for_a_minute(cluster, found):
    first, others = cluster.round("dave"), [name for name in MEMBERS if name != "dave"]
    cluster.nodes["dave"].signal(signal.SIGSTOP)
    stopped, frozen = time.monotonic(), cluster.round("dave")
    try:
        cluster.progress(others, 3)
        cluster.until(lambda: time.monotonic() > stopped + 60, alive=others)
    finally:
        cluster.nodes["dave"].signal(signal.SIGCONT)
    ahead = min(map(cluster.round, others)) - frozen
    cluster.progress(MEMBERS, 3)
    cluster.until(lambda: any(of > frozen + 1 for of in cluster.mixed("dave", others, frozen + 2)), alive=MEMBERS)
    cluster.until(
        lambda: any(of > frozen + 1 for name in others for of in cluster.mixed(name, ["dave"])), alive=MEMBERS
    )
    report = cluster.check(first, slowed=["dave"])
    found(f"the others got {ahead} rounds ahead; {report['steps_replayed']} steps replayed")


def test_clock_an_hour_off(cluster, fake_clock, found):
    first, others = cluster.round("heidi"), [name for name in MEMBERS if name != "heidi"]
    cluster.nodes["heidi"].kill()
    began = cluster.round("heidi") + 1
    cluster.start("heidi", fake_clock)
    cluster.progress(MEMBERS, 3)
    assert abs(cluster.status("heidi")["updated"] - time.time() - 3600) < 300

    def used():
        return sum(of > began for name in others for of in cluster.mixed(name, ["heidi"]))

    cluster.until(used, alive=MEMBERS)
    times = used()
    report = cluster.check(first, slowed=["heidi"])
    left_out = len(cluster.outrun("heidi"))
    found(
        f"its updates were mixed {times} times meanwhile, {left_out} rounds left out; "
        f"{report['steps_replayed']} steps replayed"
    )
