from dataclasses import replace

from node.messages import NOTE_LIMIT
from node.network.announcements import MAX_ROUNDS_REMEMBERED, AnnouncementBook, Verdict, newest_of_each
from node.network.wire import MAX_REPLY, announcement_message
from node.network.wire_pb2 import Announcements, Reply
from tests.network.members import SESSION, announce, identity

ALICE, BOB = identity("alice"), identity("bob")


def book(members=(ALICE, BOB)):
    ids = {each.peer_id for each in members}
    return AnnouncementBook(SESSION, 100, lambda peer_id: peer_id in ids)


def test_an_announcement_is_new_once():
    judged = book()
    assert judged.judge(announce(ALICE, 1, b"one")) is Verdict.NEW
    assert judged.judge(announce(ALICE, 1, b"one")) is Verdict.KNOWN
    assert judged.judge(announce(BOB, 1, b"one")) is Verdict.NEW


def test_one_more_note_on_the_same_update_is_handed_on_once_and_the_first_one_kept():
    judged, said = book(), announce(ALICE, 1, b"one")
    judged.judge(said)
    assert judged.judge(replace(said, note=b"end")) is Verdict.NEW
    assert judged.judge(replace(said, note=b"end")) is Verdict.KNOWN
    assert judged.judge(replace(said, note=b"and another")) is Verdict.KNOWN
    assert judged.judge(said) is Verdict.KNOWN
    assert judged.judge(replace(said, note=b"end", size=4)) is Verdict.CONTRADICTION
    assert judged.since(0) == [said]
    assert not judged.evidence


def test_an_announcement_is_known_if_it_is_the_same_in_every_field():
    judged, announcement = book(), announce(ALICE, 1, b"one")
    assert not judged.has(announcement)
    judged.judge(announcement)
    assert judged.has(announcement)
    for change in ({"signature": b"s" * 64}, {"round": 2}, {"note": b"n"}, {"size": 4}, {"peer_id": BOB.peer_id}):
        assert not judged.has(replace(announcement, **change)), change


def test_two_updates_for_one_round_convict_a_member():
    judged = book()
    first, second, third = (announce(ALICE, 1, payload) for payload in (b"one", b"two", b"three"))
    judged.judge(first)
    assert judged.judge(second) is Verdict.EQUIVOCATION
    assert judged.judge(third) is Verdict.KNOWN
    assert [(each.first, each.second) for each in judged.evidence] == [(first, second)]
    assert judged.since(0) == [first]


def test_strangers_other_sessions_and_oversized_payloads_are_refused():
    judged = book(members=[ALICE])
    assert judged.judge(announce(BOB, 1, b"one")) is Verdict.NOT_A_MEMBER
    assert judged.judge(announce(ALICE, 1, b"one", session_id=7)) is Verdict.FOREIGN_SESSION
    assert judged.judge(announce(ALICE, 1, b"x" * 101)) is Verdict.TOO_LARGE
    assert judged.since(0) == []


def test_what_was_forgotten_is_not_new_again():
    judged = book()
    for round in range(MAX_ROUNDS_REMEMBERED + 1):
        assert judged.judge(announce(ALICE, round, b"payload")) is Verdict.NEW
    assert judged.judge(announce(ALICE, 0, b"payload")) is Verdict.TOO_OLD
    assert len(judged.since(0)) == MAX_ROUNDS_REMEMBERED


def test_since_answers_from_a_round_on():
    judged = book()
    for round in (3, 1, 2):
        judged.judge(announce(ALICE, round, b"payload"))
    assert [each.round for each in judged.since(2)] == [2, 3]


def test_the_newest_round_of_a_peer_is_told_whoever_told_it():
    judged = book()
    assert judged.newest_round(ALICE.peer_id) == 0
    for round in (3, 9, 2):
        judged.judge(announce(ALICE, round, b"payload"))
    assert judged.newest_round(ALICE.peer_id) == 9


def test_who_announces_far_ahead_leaves_room_for_the_others():
    honest = [announce(ALICE, round, b"honest") for round in (1, 2, 3)]
    flood = [announce(BOB, 4_000_000_000 + n, b"flood") for n in range(20)]
    chosen = newest_of_each([*flood, *honest], 8, MAX_REPLY)
    assert len(chosen) == 8
    assert set(honest) <= set(chosen)
    assert newest_of_each(honest, 2, MAX_REPLY) == honest[:0:-1]


def test_what_is_told_in_one_reply_fits_into_it_whatever_the_notes():
    said = [announce(ALICE, round, b"model") for round in range(1, 1025)]
    long = [replace(each, note=b"n" * NOTE_LIMIT) for each in said]
    chosen = newest_of_each(long, 1024, MAX_REPLY)
    reply = Reply(announcements=Announcements(announcements=[announcement_message(each) for each in chosen]))
    size = len(reply.SerializeToString())
    assert 0.9 * MAX_REPLY < size <= MAX_REPLY
    assert [each.round for each in chosen] == list(range(1024, 1024 - len(chosen), -1))
    assert len(newest_of_each(said, 1024, MAX_REPLY)) == 1024


def test_the_same_bytes_with_another_size_or_codec_are_not_what_was_said():
    judged, said = book(), announce(ALICE, 1, b"one")
    judged.judge(said)
    assert judged.judge(replace(said, size=4)) is Verdict.CONTRADICTION
    assert judged.judge(replace(said, codec="float16")) is Verdict.CONTRADICTION
    assert judged.judge(said) is Verdict.KNOWN
    assert judged.since(0) == [said]


def test_a_size_that_verified_bytes_contradict_is_not_believed():
    judged, said = book(), announce(ALICE, 1, b"one")
    judged.note_verified(said.digest, 3)
    assert judged.judge(replace(said, size=4)) is Verdict.CONTRADICTION
    assert judged.judge(said) is Verdict.NEW
