"""Nodes that are killed or stand still."""

import random
import signal
import time

import pytest

from tests.faults.cluster import MEMBERS, finished

pytestmark = pytest.mark.faults
PHASES = ("training", "gathering", "mixing", "saving a snapshot")


def kill_in(cluster, name, phase, seconds=60.0):
    """Kills a node as soon as it says that it is in this phase; at the end of the patience in whichever it is."""
    deadline = time.monotonic() + seconds
    node = cluster.nodes[name]
    while node.status().get("state") != phase and time.monotonic() < deadline:
        time.sleep(0.01)
    node.kill()
    return node.status()["state"]


def test_kill_9_at_any_phase(cluster):
    first, chance, others = cluster.round("carol"), random.Random(7), [name for name in MEMBERS if name != "carol"]
    hit = []
    for phase in (*PHASES, None, None):
        before = cluster.round("carol")
        if phase is None:  # at any moment
            time.sleep(chance.uniform(0, 3))
            cluster.nodes["carol"].kill()
            hit.append("any")
        else:
            hit.append(kill_in(cluster, "carol", phase))
        cluster.progress(others, 1)
        cluster.start("carol")
        cluster.until(lambda before=before: cluster.round("carol") > before, alive=MEMBERS)
    assert {"training", "gathering"} <= set(hit), hit
    cluster.progress(MEMBERS, 2)
    cluster.check(first)


def test_frozen_for_a_minute(cluster):
    first, others = cluster.round("dave"), [name for name in MEMBERS if name != "dave"]
    cluster.nodes["dave"].signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        cluster.progress(others, 3)
        cluster.until(lambda: time.monotonic() > stopped + 60, alive=others)
    finally:
        cluster.nodes["dave"].signal(signal.SIGCONT)
    at = cluster.round("dave")
    cluster.progress(MEMBERS, 3)
    assert (
        max(map(len, ([cell for cell in row.values() if cell[1] != -128] for row in cluster.rows("dave", at + 1)))) > 1
    )
    cluster.check(first)


def test_clock_an_hour_off(cluster, fake_clock):
    first = cluster.round("heidi")
    cluster.nodes["heidi"].kill()
    cluster.start("heidi", fake_clock)
    cluster.progress(MEMBERS, 3)
    assert abs(cluster.status("heidi")["updated"] - time.time() - 3600) < 300
    used = cluster.rows("alice", first) + cluster.rows("bob", first) + cluster.rows("carol", first)
    heidi = cluster.member("heidi")
    assert any(heidi in row and row[heidi][1] != -128 for row in used)
    cluster.check(first)
    cluster.nodes["heidi"].kill()
    cluster.start("heidi")
    assert finished(cluster.status("heidi"))
