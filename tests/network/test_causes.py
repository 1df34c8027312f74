import logging
import re
from dataclasses import replace
from pathlib import Path

from node.causes import Cause, Tally
from node.network.announcements import AnnouncementBook
from node.network.hearing import Hearing
from node.network.standing import Standings
from tests.network.members import SESSION, announce, identity

DOCS = Path(__file__).parents[2] / "docs" / "network.md"
ALICE, BOB = identity("alice"), identity("bob")


def test_the_documents_list_every_cause_and_no_other():
    assert re.findall(r"^\| `([a-z-]+)` \| ", DOCS.read_text(), re.MULTILINE)[-len(Cause) :] == list(map(str, Cause))


def test_a_flood_leaves_few_lines_in_the_log(caplog):
    tally = Tally()
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            tally.count(Cause.BAD_REQUEST, "mallory", "x" * 10_000)
    assert tally.counts == {"bad-request": 1000}
    assert [record.count for record in caplog.records] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert {record.cause for record in caplog.records} == {"bad-request"}
    assert all("peer mallory" in line and len(line) < 500 for line in caplog.messages)


def test_every_cause_is_a_metric_before_it_is_met():
    assert Tally().by_cause() == dict.fromkeys(map(str, Cause), 0.0)


def hearing() -> Hearing:
    book = AnnouncementBook(SESSION, 100, lambda _peer_id: True)
    return Hearing(book, Standings(lambda: 0.0), lambda _announcement: None)


def test_another_member_s_bytes_are_taken_and_counted():
    heard = hearing()
    assert heard.forwarded(announce(ALICE, 1, b"update"), "carol")
    assert heard.forwarded(announce(BOB, 1, b"update"), "carol")
    heard.told(announce(ALICE, 2, b"update"), "carol")
    assert heard.standings.refused == {Cause.COPIED_UPDATE: 1, Cause.REPEATED_UPDATE: 1}


def test_our_own_bytes_under_another_s_name_are_counted():
    heard = hearing()
    heard.book.note_bytes(announce(ALICE, 1, b"update"))
    assert heard.forwarded(announce(BOB, 1, b"update"), "carol")
    assert heard.standings.refused == {Cause.COPIED_UPDATE: 1}


def test_an_old_announcement_that_comes_again_is_a_replay_and_a_recent_one_is_not():
    heard = hearing()
    said = [announce(ALICE, round, bytes([round])) for round in range(1, 40)]
    for each in said:
        heard.forwarded(each, "carol")
    assert not heard.forwarded(said[-2], "carol")
    assert not heard.standings.refused
    assert not heard.forwarded(said[3], "mallory")
    heard.told(said[3], "carol")  # who tells all that it remembers
    assert heard.standings.refused == {Cause.REPLAYED: 1}


def test_what_is_of_another_session_or_too_large_costs_who_forwards_it():
    heard = hearing()
    heard.forwarded(announce(ALICE, 1, b"update", SESSION + 1), "mallory")
    heard.forwarded(announce(ALICE, 1, bytes(101)), "mallory")
    assert heard.standings.refused == {Cause.FOREIGN_SESSION: 1, Cause.TOO_LARGE: 1}
    assert heard.standings.score("mallory") == -15


def test_another_size_for_the_same_bytes_is_refused_at_nobody_s_cost():
    heard, said = hearing(), announce(ALICE, 1, b"update")
    assert heard.forwarded(said, "carol")
    assert not heard.forwarded(replace(said, size=7), "carol")
    heard.told(replace(said, codec="float16"), "carol")
    assert heard.standings.refused == {Cause.BAD_ANNOUNCEMENT: 2}
    assert heard.standings.scores() == {}
