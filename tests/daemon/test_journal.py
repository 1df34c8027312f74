import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from node.daemon.journal import Journal
from node.daemon.opening import open_journal
from node.daemon.ports import Announced
from node.errors import HomeError
from node.learning.codecs import codec
from node.messages import ABSENT, Announcement, Input, Mix

MIX = Mix(3, 4, (Input(0, 65000, 0), Input(2, 535, -1), Input(3, 0, ABSENT)), b"\x07" * 32, "bafy-some-cid", None)


def sha256(content):
    return hashlib.sha256(content).digest()


def announcement(round, payload=b"payload"):
    return Announcement(2**63, round, sha256(payload), len(payload), "float32", "12D3KooW", b"s" * 64)


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path, keep=3)
    yield opened
    opened.close()


def reopened(journal, tmp_path):
    journal.close()
    return Journal(tmp_path, keep=3)


def test_an_empty_disk_has_no_checkpoint(journal):
    assert journal.checkpoint() is None


def test_a_checkpoint_survives_the_process(journal, tmp_path):
    journal.save_checkpoint(MIX, b"state")
    again = reopened(journal, tmp_path)
    found = again.checkpoint()
    assert (found.round, found.state, found.mix, found.closed) == (3, b"state", MIX, False)
    again.close()


def test_what_an_update_is_to_be_announced_with_survives_the_process(journal, tmp_path):
    journal.save_update(4, b"payload", sha256(b"payload"), b'{"steps":3}')
    journal.save_update(5, b"another", sha256(b"another"))
    again = reopened(journal, tmp_path)
    assert [again.note(round) for round in (4, 5, 6)] == [b'{"steps":3}', b"", b""]
    again.close()


def test_only_the_newest_checkpoint_is_kept(journal, tmp_path):
    journal.save_checkpoint(MIX, b"old")
    journal.save_checkpoint(Mix(4, 4, MIX.inputs, MIX.mixed_hash, None), b"new")
    assert journal.checkpoint().state == b"new"
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_a_closing_record_is_remembered_until_the_next_round(journal):
    journal.save_checkpoint(MIX, b"state")
    journal.mark_closed()
    assert journal.checkpoint().closed
    journal.save_checkpoint(Mix(4, 4, MIX.inputs, MIX.mixed_hash, None), b"next")
    assert not journal.checkpoint().closed


def test_a_checkpoint_whose_mix_no_record_is_to_carry_is_closed_from_the_start(journal):
    journal.save_checkpoint(MIX, b"state", closed=True)
    assert journal.checkpoint().closed


def test_what_an_earlier_disk_recorded_survives_the_process(journal, tmp_path):
    assert journal.recorded() is None
    journal.save_recorded(4, b"\x02" * 32)
    again = reopened(journal, tmp_path)
    assert again.recorded() == (4, b"\x02" * 32)
    again.close()


def test_a_round_that_an_earlier_disk_recorded_is_known(journal):
    journal.save_mixless(4, b"state")
    journal.save_recorded(5, sha256(b"payload"))
    assert journal.last_round() == 5


def test_a_corrupt_checkpoint_is_never_used(journal, tmp_path):
    journal.save_checkpoint(MIX, b"state")
    next(tmp_path.glob("checkpoint-*")).write_bytes(b"other")
    with pytest.raises(HomeError, match="corrupt"):
        journal.checkpoint()


def test_a_kill_between_a_checkpoints_file_and_its_row_leaves_the_one_before(journal, tmp_path, monkeypatch):
    journal.save_checkpoint(MIX, b"state")

    def kill():
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "_transaction", kill)
    with pytest.raises(KeyboardInterrupt):
        journal.save_mixless(MIX.round, b"of the same round, as a coordinator's")
    again = reopened(journal, tmp_path)
    assert (again.checkpoint().state, again.checkpoint().mix) == (b"state", MIX)
    again.save_mixless(MIX.round, b"of the same round, as a coordinator's")
    assert again.checkpoint().state == b"of the same round, as a coordinator's"
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1
    again.close()


def test_halves_of_files_and_payloads_of_no_update_are_gone_at_a_start(journal, tmp_path):
    journal.save_checkpoint(MIX, b"state")
    for round in (4, 5):
        journal.save_update(round, b"update %d" % round, sha256(b"update %d" % round))
    left = [
        tmp_path / ".checkpoint-4-0123.safetensors.77.tmp",
        tmp_path / "payloads" / f".{sha256(b'half').hex()}.77.tmp",
        tmp_path / "payloads" / sha256(b"of a round that another update was recorded for").hex(),
    ]
    for path in left:
        path.write_bytes(b"left behind by kill -9")
    prepared = SimpleNamespace(
        learner=SimpleNamespace(codec=codec("float32"), learner=SimpleNamespace(spec=None)),
        opened=SimpleNamespace(session=SimpleNamespace(limits=SimpleNamespace(staleness=1))),
    )
    journal.close()
    again = open_journal(SimpleNamespace(home=SimpleNamespace(state=tmp_path)), prepared)
    assert not any(path.exists() for path in left)
    assert again.checkpoint().state == b"state"
    assert [again.update(round) for round in (4, 5)] == [
        (b"update %d" % round, sha256(b"update %d" % round)) for round in (4, 5)
    ]
    again.close()


def test_a_corrupt_mix_is_never_recorded(journal, tmp_path):
    journal.save_checkpoint(MIX, b"state")
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db, db:
        (text,) = db.execute("select mix from checkpoint").fetchone()
        db.execute("update checkpoint set mix = ?", (text.replace('"weight": ', '"weight": 1', 1),))
    with pytest.raises(HomeError, match=r"the mix of round \d+ in .* is corrupt: restore it"):
        journal.checkpoint()


def test_a_journal_from_before_mixes_had_digests_goes_on(journal, tmp_path):
    journal.save_checkpoint(MIX, b"state")
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db, db:
        db.execute("alter table checkpoint drop column mix_sha256")
    again = reopened(journal, tmp_path)
    assert again.checkpoint().mix == MIX
    again.close()


def test_the_last_payloads_are_kept_whatever_rounds_lie_between(journal):
    payloads = {round: b"update %d" % round for round in (1, 2, 3, 40, 41, 90)}
    for round, payload in payloads.items():
        journal.save_update(round, payload, sha256(payload))
        journal.save_announcement(announcement(round, payload))
    kept = [round for round, payload in payloads.items() if journal.update(round) is not None]
    assert kept == [40, 41, 90]
    assert [each.round for each in journal.announcements(1)] == kept
    assert journal.last_trained() == 90


def test_a_loss_is_known_until_it_is_dealt_with(journal, tmp_path):
    assert not journal.in_loss()
    journal.begin_loss()
    with closing(reopened(journal, tmp_path)) as again:
        assert again.in_loss()
        again.end_loss()
        assert not again.in_loss()


def test_what_was_promised_is_known_though_it_is_damaged(journal):
    journal.save_update(1, b"an update", sha256(b"an update"))
    journal.payload_path(sha256(b"an update")).write_bytes(b"torn")
    assert journal.update(1) is None
    assert journal.promised(1) == sha256(b"an update")
    assert journal.promised(2) is None


def test_a_damaged_update_reads_as_missing(journal):
    payload = b"an update"
    journal.save_update(1, payload, sha256(payload))
    assert journal.update(1) == (payload, sha256(payload))
    journal.payload_path(sha256(payload)).write_bytes(b"torn")
    assert journal.update(1) is None


def test_a_damaged_payload_of_any_round_is_served_to_nobody_after_a_start(journal, tmp_path, caplog):
    payloads = [b"update %d" % round for round in range(1, 4)]
    for round, payload in enumerate(payloads, 1):
        journal.save_update(round, payload, sha256(payload), b"note")
        journal.save_announcement(announcement(round, payload))
    journal.close()
    for damaged in (0, 2):
        (tmp_path / "payloads" / sha256(payloads[damaged]).hex()).write_bytes(b"updatf")
    form, limits = codec("float32"), SimpleNamespace(staleness=1)
    prepared = SimpleNamespace(
        learner=SimpleNamespace(codec=form, learner=SimpleNamespace(spec=None), earlier=None),
        opened=SimpleNamespace(session=SimpleNamespace(limits=limits)),
    )
    with closing(open_journal(SimpleNamespace(home=SimpleNamespace(state=tmp_path)), prepared)) as again:
        served = [Announced(again, None, {}).open(sha256(payload)) for payload in payloads]
        assert served == [None, again.payload_path(sha256(payloads[1])), None]
        assert again.newest_update() == (2, payloads[1], sha256(payloads[1]))
        assert (again.last_round(), again.note(3)) == (3, b"note")  # what is known of the round in flight
        again.save_update(3, payloads[2], sha256(payloads[2]))  # trained again
        assert Announced(again, None, {}).open(sha256(payloads[2])).read_bytes() == payloads[2]
    assert [line.split(" is ")[0] for line in caplog.messages[:2]] == [
        f"the update of round {round} on disk" for round in (1, 3)
    ]


def test_payloads_beyond_the_window_are_forgotten(journal):
    for round in range(1, 6):
        payload = b"update %d" % round
        journal.save_update(round, payload, sha256(payload))
        journal.save_announcement(announcement(round, payload))
    assert journal.update(2) is None
    assert not journal.payload_path(sha256(b"update 2")).exists()
    assert journal.update(3) is not None
    assert [a.round for a in journal.announcements(0)] == [3, 4, 5]


def test_a_payload_counts_as_announced_only_after_its_announcement(journal):
    payload = b"payload"
    journal.save_update(1, payload, sha256(payload))
    assert not journal.is_announced(sha256(payload))
    journal.save_announcement(announcement(1))
    assert journal.is_announced(sha256(payload))
    assert journal.announcements(1) == [announcement(1)]


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(HomeError, match="damaged"):
        Journal(tmp_path, keep=3)


def test_a_page_that_the_disk_lost_is_a_clear_error(journal, tmp_path):
    for round in range(1, 4):
        journal.save_update(round, b"payload", sha256(b"payload"))
    (page,) = journal._db.execute("select rootpage from sqlite_master where name = 'updates'").fetchone()
    (size,) = journal._db.execute("pragma page_size").fetchone()
    journal.close()
    path = tmp_path / "journal.sqlite"
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(HomeError, match=r"journal\.sqlite is damaged .*restore it from a backup"):
        Journal(tmp_path, keep=3)


def test_a_journal_that_cannot_be_written_is_a_clear_error_and_can_be_used_again(journal, tmp_path):
    (pages,) = journal._db.execute("pragma page_count").fetchone()
    journal._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(HomeError, match=r"journal.sqlite cannot be written \(database or disk is full\)"):
        journal.save_announcement(replace(announcement(1), note=b"n" * 100_000))
    journal._db.execute("pragma max_page_count = 1000000")
    journal.save_announcement(announcement(1))
    assert journal.announcements(1) == [announcement(1)]
