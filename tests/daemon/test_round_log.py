"""The finished rounds of a status."""

import json
from types import SimpleNamespace

import pytest

from node.daemon.metrics import node_metrics
from node.daemon.round_log import RoundLog
from node.network.metrics import prometheus_text


def entry(round, loss=0.5):
    return {"round": round, "metrics": {"loss": loss}}


def rounds(log):
    return json.loads(b"".join(log.as_json()), parse_constant=pytest.fail)


def test_the_newest_rounds_are_kept_in_their_order():
    log = RoundLog(3, [entry(1), entry(2)])
    assert (rounds(log), log.last) == ([entry(1), entry(2)], entry(2))
    for round in (4, 5):
        log.add(entry(round))
    assert (rounds(log), log.last) == ([entry(2), entry(4), entry(5)], entry(5))


def test_a_round_that_is_finished_again_takes_the_place_of_the_first():
    log = RoundLog(3, [entry(1), entry(2, 0.9)])
    log.add(entry(2, 0.1))
    assert rounds(log) == [entry(1), entry(2, 0.1)]


def test_what_is_no_finite_number_is_null_since_json_has_no_word_for_it():
    log = RoundLog(3, [entry(1, float("nan"))])
    log.add(entry(2, float("-inf")))
    assert rounds(log) == [entry(1, None), entry(2, None)]
    assert log.last == entry(2, None)
    assert rounds(RoundLog(3, rounds(log))) == rounds(log), "as after a restart"


def test_prometheus_is_told_no_number_that_there_is_not():
    counts = SimpleNamespace(own=0, replicas=0, other=0, missing=0, under_replicated=0, damaged=0)
    sizes = SimpleNamespace(**vars(counts), own_bytes=0, replica_bytes=0, other_bytes=0, limit=None)
    log = RoundLog(3, [{"round": 1, "metrics": {"test_loss": float("nan"), "epsilon": 0.5}}])
    page = prometheus_text(
        node_metrics(
            SimpleNamespace(metrics=list),
            SimpleNamespace(state=SimpleNamespace(confirmed=1, pending=0)),
            SimpleNamespace(refused_updates=0),
            SimpleNamespace(replication=SimpleNamespace(standing=sizes), rounds=log),
        )
    )
    assert [line for line in page.splitlines() if line.startswith("fl_node_learning{")] == [
        'fl_node_learning{metric="epsilon"} 0.5'
    ]


def test_no_rounds():
    assert (rounds(RoundLog(3)), RoundLog(3).last) == ([], None)


def test_of_what_a_file_says_only_rounds_are_taken():
    found = RoundLog(3, ["noise", {"round": "7"}, {"metrics": {}}, {"round": 7}, entry(8)])
    assert rounds(found) == [entry(8)]
