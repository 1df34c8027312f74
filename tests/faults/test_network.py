"""Links that fail, and links that are bad."""

import time
from statistics import mean

import pytest

from tests.faults.cluster import ABSENT, HEAVY, MEMBERS, Cluster

pytestmark = pytest.mark.faults
HERE, THERE = MEMBERS[:4], MEMBERS[4:]
EVERYBODY = (*MEMBERS, "chain", "ipfs")
MBIT = 125_000
LATE = 2  # rounds beyond what a status says that may have been announced before the wire was cut


def last_for(cluster, seconds, alive=MEMBERS):
    """Waits so long, while no node may end."""
    until = time.monotonic() + seconds
    cluster.until(lambda: time.monotonic() > until, seconds + 10, alive)


def rounds(cluster, names=MEMBERS):
    return {name: cluster.round(name) for name in names}


def newest(cluster, name, others, *between):
    """The newest update of one of the others that the member has mixed."""
    return max(cluster.mixed(name, others, *between), default=0)


def test_partition_into_halves_for_three_minutes(cluster, found):
    first = cluster.round("alice")
    cluster.made.wire((*HERE, "chain", "ipfs"), THERE, loss=1.0)
    cluster.made.wire(THERE, (*HERE, "chain", "ipfs"), loss=1.0)
    started, cut = time.monotonic(), rounds(cluster)
    cluster.progress(MEMBERS, 3)
    last_for(cluster, max(0.0, started + 180 - time.monotonic()))
    assert all(cluster.status(name)["records"]["pending"] > 0 for name in THERE)
    split = rounds(cluster)
    for half, other in ((HERE, THERE), (THERE, HERE)):
        before = max(cut[name] for name in other) + LATE
        for name in half:
            assert newest(cluster, name, other) <= before, (name, before, cluster.rows(name, cut[name]))
            assert newest(cluster, name, half) > max(cut[one] for one in half) + 1, name
    cluster.made.heal()
    for half, other in ((HERE, THERE), (THERE, HERE)):
        after = max(split[name] for name in other)  # a half that is ahead takes nothing older than the staleness
        cluster.until(lambda h=half, o=other, a=after: any(newest(cluster, one, o) > a for one in h), 600)
    report = cluster.check(first, slowed=MEMBERS)
    of = cluster.records()
    for name in MEMBERS:  # the rounds of both halves while they were split
        assert set(range(cut[name] + 1, split[name] + 1)) <= set(of[cluster.member(name)]), name
    went = {name: split[name] - cut[name] for name in MEMBERS}
    found(f"rounds while split {went}, none with the other half; {report['steps_replayed']} steps replayed")


def test_one_way_loss(cluster, found):
    first, others = cluster.round("erin"), [name for name in MEMBERS if name != "erin"]
    cluster.made.wire(["erin"], [name for name in EVERYBODY if name != "erin"], loss=1.0)
    mute = cluster.round("erin")
    last_for(cluster, 60)
    cluster.progress(others, 1)
    records = cluster.status("erin")["records"]
    assert records["pending"] > 0
    assert records["last_error"]
    went = rounds(cluster)
    for name in others:  # what erin did while nobody heard her is in nobody's rows
        assert newest(cluster, name, ["erin"]) <= mute + LATE, cluster.rows(name, first)
        assert newest(cluster, name, others) > mute + LATE, name  # and the others mixed each other's
    cluster.made.heal()
    after = went["erin"]
    cluster.until(lambda: any(newest(cluster, name, ["erin"]) > after for name in others), alive=MEMBERS)
    cluster.until(lambda: newest(cluster, "erin", others, after + 1) > mute + LATE, alive=MEMBERS)
    report = cluster.check(first, slowed=["erin"])
    found(f"{went['erin'] - mute} rounds mute, in nobody's rows; {report['steps_replayed']} steps replayed")


def test_ten_percent_loss(cluster, found):
    first, before = cluster.round("alice"), cluster.made.counts()
    cluster.made.wire(EVERYBODY, EVERYBODY, loss=0.1)
    last_for(cluster, 10)
    bad = rounds(cluster)
    last_for(cluster, 50)
    cluster.progress(MEMBERS, 2)
    counts, went = cluster.made.counts(), rounds(cluster)
    cluster.made.heal()
    lost, carried = (counts[what] - before[what] for what in ("lost", "carried"))
    assert 0.08 < lost / (lost + carried) < 0.12
    inputs = [
        lag
        for name in MEMBERS
        for row in cluster.rows(name, bad[name] + 2, went[name])
        for member, (_, lag) in row.items()
        if member != cluster.member(name)
    ]
    came = mean(lag != ABSENT for lag in inputs)
    assert came > 0.8, came  # TCP sends again what is lost: hardly anybody is missing
    for name in MEMBERS:
        others = [other for other in MEMBERS if other != name]
        assert newest(cluster, name, others, bad[name] + 1, went[name]) > bad[name], name
    report = cluster.check(first)
    found(
        f"{lost:,} of {lost + carried:,} frames lost, {came:.0%} of {len(inputs)} updates came; "
        f"{report['steps_replayed']} steps replayed"
    )


def test_delay_200_ms(cluster, found):
    first = cluster.round("alice")
    cluster.made.wire(EVERYBODY, EVERYBODY, delay=0.2)
    last_for(cluster, 20)
    bad = rounds(cluster)
    last_for(cluster, 40)
    cluster.progress(MEMBERS, 2)
    latencies = [
        peer["latency_ms"]
        for name in MEMBERS
        for peer in cluster.status(name)["peers"]
        if peer["latency_ms"] is not None
    ]
    assert mean(latency > 400 for latency in latencies) > 0.5, latencies
    entries = [
        entry for name in MEMBERS for entry in cluster.status(name)["finished_rounds"] if bad[name] + 1 < entry["round"]
    ]
    cluster.made.heal()
    cells = [cell for entry in entries for cell in entry["inputs"]]
    came = mean(cell["lag"] != ABSENT for cell in cells)
    assert came > 0.9, came  # a delay makes nobody absent: the deadlines follow it
    gathered = [entry["gather_s"] for entry in entries if sum(cell["lag"] != ABSENT for cell in entry["inputs"]) > 1]
    assert min(gathered) >= 0.4  # there and back
    report = cluster.check(first)
    found(
        f"{came:.0%} of {len(cells)} updates came, gathering took {min(gathered):.1f} to {max(gathered):.1f} s; "
        f"{report['steps_replayed']} steps replayed"
    )


def test_link_of_1_mbit(cluster, found):
    """A session of its own with larger updates, which ends by itself, on the same hosts; the calm one rests."""
    cluster.stop()
    for name in MEMBERS:
        cluster.ended(name)
    heavy = Cluster(cluster.place / "heavy", cluster.made, HEAVY, rounds=40)
    heavy.place.mkdir()
    try:
        heavy.build()
        heavy.until(lambda: min(rounds(heavy).values()) >= 2, alive=MEMBERS)
        heavy.made.link("frank", rate=MBIT)
        began, slow = time.monotonic(), heavy.round("frank")
        others = [name for name in MEMBERS if name != "frank"]
        heavy.until(lambda: heavy.round("frank") >= heavy.rounds, 600)
        link, seconds = heavy.made.link_counts("frank"), time.monotonic() - began
        report = heavy.over(1, slowed=["frank"])
        gather_s = {
            name: mean(
                entry["gather_s"] for entry in heavy.status(name)["finished_rounds"] if entry["round"] > slow + 1
            )
            for name in MEMBERS
        }
        newest_there = newest(heavy, "frank", others, slow + 2)
        used = sum(of > slow + 1 for name in others for of in heavy.mixed(name, ["frank"]))
        outrun = len(heavy.outrun("frank"))
    finally:
        heavy.remove()
    assert link["down"]["busy_s"] > seconds / 3, (link, seconds)
    assert link["down"]["lost"] > 0, link  # a queue ran over
    assert gather_s["frank"] > 1.5 * mean(gather_s[name] for name in others), gather_s
    assert newest_there > slow + 1
    assert used
    assert report["steps_total"] == report["steps_replayed"] == heavy.rounds * len(MEMBERS) - outrun
    found(
        f"full for {link['down']['busy_s']:.0f} (down) and {link['up']['busy_s']:.0f} (up) of {seconds:.0f} s; "
        f"gathering took {gather_s['frank']:.1f} s there, {mean(gather_s[name] for name in others):.1f} s elsewhere; "
        f"updates over the link were mixed {used} times, {outrun} rounds left out; "
        f"{report['steps_replayed']} steps replayed"
    )
