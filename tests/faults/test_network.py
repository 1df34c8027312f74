"""Links that fail, and links that are bad."""

import time

import pytest

from tests.faults.cluster import MEMBERS

pytestmark = pytest.mark.faults
HERE, THERE = MEMBERS[:4], MEMBERS[4:]
EVERYBODY = (*MEMBERS, "chain", "ipfs")
ABSENT = -128
MBIT = 125_000


def last_for(cluster, seconds, alive=MEMBERS):
    """Waits so long, while no node may end."""
    until = time.monotonic() + seconds
    cluster.until(lambda: time.monotonic() > until, seconds + 10, alive)


def heard(cluster, name, others, first):
    """Whether the member has mixed an update of one of the others since round `first`."""
    known = {cluster.member(other) for other in others}
    rows = cluster.rows(name, first)
    return any(cell[1] != ABSENT for row in rows for member, cell in row.items() if member in known)


def test_partition_into_halves_for_three_minutes(cluster):
    first = cluster.round("alice")
    cluster.made.wire((*HERE, "chain", "ipfs"), THERE, loss=1.0)
    cluster.made.wire(THERE, (*HERE, "chain", "ipfs"), loss=1.0)
    started = time.monotonic()
    last_for(cluster, 60)
    cut = {name: cluster.round(name) for name in MEMBERS}
    cluster.progress(MEMBERS, 2)
    last_for(cluster, max(0.0, started + 180 - time.monotonic()))
    assert all(cluster.status(name)["records"]["pending"] > 0 for name in THERE)
    for name in THERE:
        assert not heard(cluster, name, HERE, cut[name] + 2)  # the cut is a cut
    cluster.made.heal()
    healed = {name: cluster.round(name) for name in MEMBERS}
    cluster.progress(MEMBERS, 3)
    ours = [(name, THERE, healed[name] + 1) for name in HERE]
    theirs = [(name, HERE, healed[name] + 1) for name in THERE]
    cluster.until(lambda: any(heard(cluster, *one) for one in ours) and any(heard(cluster, *one) for one in theirs))
    cluster.check(first)


def test_one_way_loss(cluster):
    first, others = cluster.round("erin"), [name for name in MEMBERS if name != "erin"]
    cluster.made.wire(["erin"], [name for name in EVERYBODY if name != "erin"], loss=1.0)
    last_for(cluster, 60)
    cluster.progress(others, 1)
    cluster.made.heal()
    healed = cluster.round("erin")
    cluster.progress(MEMBERS, 3)
    cluster.until(lambda: heard(cluster, "erin", others, healed + 1))
    cluster.check(first)


@pytest.mark.parametrize(
    "conditions", [pytest.param({"loss": 0.1}, id="ten_percent_loss"), pytest.param({"delay": 0.2}, id="delay_200_ms")]
)
def test_bad_links_between_all(cluster, conditions):
    first = cluster.round("alice")
    cluster.made.wire(EVERYBODY, EVERYBODY, **conditions)
    last_for(cluster, 20)
    bad = {name: cluster.round(name) for name in MEMBERS}
    last_for(cluster, 40)
    cluster.progress(MEMBERS, 2)
    for name in MEMBERS:
        others = [other for other in MEMBERS if other != name]
        cluster.until(lambda name=name, others=others: heard(cluster, name, others, bad[name] + 1))
    cluster.made.heal()
    cluster.progress(MEMBERS, 1)
    cluster.check(first)


def test_link_of_1_mbit(cluster):
    first, others = cluster.round("frank"), [name for name in MEMBERS if name != "frank"]
    cluster.made.link("frank", rate=MBIT)
    last_for(cluster, 20)
    slow = cluster.round("frank")
    last_for(cluster, 40)
    cluster.progress(MEMBERS, 2)
    cluster.until(lambda: heard(cluster, "frank", others, slow + 1))
    cluster.made.heal()
    cluster.progress(MEMBERS, 1)
    cluster.check(first)
