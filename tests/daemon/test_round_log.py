"""The finished rounds of a status."""

import json

from node.daemon.round_log import RoundLog


def entry(round, loss=0.5):
    return {"round": round, "metrics": {"loss": loss}}


def rounds(log):
    return json.loads(b"".join(log.as_json()))


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


def test_no_rounds():
    assert (rounds(RoundLog(3)), RoundLog(3).last) == ([], None)


def test_of_what_a_file_says_only_rounds_are_taken():
    found = RoundLog(3, ["noise", {"round": "7"}, {"metrics": {}}, {"round": 7}, entry(8)])
    assert rounds(found) == [entry(8)]
