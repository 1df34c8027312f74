"""What a former coordinator's disk becomes."""

import hashlib
from types import SimpleNamespace

import pytest
import trio

from node.config import Aggregation
from node.daemon.averaging import AveragingLearner, is_coordinators
from node.daemon.journal import Journal
from node.daemon.parts import forget_stop
from node.daemon.resume import keep_checkpoint
from node.daemon.succession import LedgerSuccession, Takeover, step_down
from node.messages import Announcement
from node.session.coordinator import STOPPED
from node.session.notes import Orders, Work, encode
from node.session.succession import Term
from node.wishes import CoordinationWishes
from tests.daemon.test_averaging import learner
from tests.nodes import make_home, make_session


async def test_a_former_coordinator_becomes_a_worker_beyond_every_round_that_it_may_have_recorded(tmp_path):
    journal, told = Journal(tmp_path, keep=3), []
    boss = AveragingLearner(learner(0), Aggregation())
    await keep_checkpoint(journal, 4, boss.checkpoint())
    assert is_coordinators(journal.checkpoint().path)
    model = await boss.model()
    journal.save_update(5, model.payload, model.digest)
    await step_down(journal, learner(0), 4, told.append)
    assert not is_coordinators(journal.checkpoint().path)
    assert journal.checkpoint().round == 5
    assert "is a worker now" in told[0]


async def test_a_workers_disk_stays_as_it_is(tmp_path):
    journal, told = Journal(tmp_path, keep=3), []
    await keep_checkpoint(journal, 4, learner(1).checkpoint())
    await step_down(journal, learner(1), 9, told.append)
    assert (journal.checkpoint().round, told) == (4, [])


@pytest.mark.parametrize("confirmed", [True, False])
async def test_who_has_recorded_the_next_round_leaves_its_disk_alone_and_does_not_take_over(tmp_path, confirmed):
    """Its coordinator gave that round's model out, and died before the record of it was on the ledger."""
    journal = Journal(tmp_path, keep=3)
    if confirmed:  # by an earlier disk
        journal.save_recorded(3, b"\x09" * 32)
    else:
        journal.save_update(3, b"its own", hashlib.sha256(b"its own").digest(), b"note")
    before = journal.newest_update(), journal.note(3)
    takeover = Takeover(None, SimpleNamespace(own_index=1), journal, None, None, None, None, print)
    assert await takeover.take_over(Term(0, 1, 2, b"\2" * 32), b"model 2", None) is None
    assert (journal.newest_update(), journal.note(3)) == before


async def test_the_ledger_is_read_by_one_at_a_time(tmp_path, monkeypatch):
    reading = []

    def read(_succession):
        reading.append(1)
        trio.from_thread.run(trio.sleep, 0.01)
        assert len(reading) == 1
        reading.clear()
        return Term(0)

    monkeypatch.setattr(LedgerSuccession, "_read", read)
    succession = LedgerSuccession(None, None, tmp_path / "succession.sqlite")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(succession.refresh)
    assert succession.current == Term(0)


@pytest.mark.real
async def test_a_damaged_cache_of_the_ledger_is_made_again(chain, tmp_path, caplog):
    home, cache = make_home(tmp_path / "boss"), tmp_path / "succession.sqlite"
    wishes = {"topology": "coordinated", "coordination": CoordinationWishes(election_s=6.0), "round_deadline_s": 5.0}
    opened = await trio.to_thread.run_sync(
        lambda: make_session(home, chain, tmp_path / "session.toml", quorum=1, **wishes)
    )
    succession = LedgerSuccession(opened, opened.session.coordinated, cache)
    assert await succession.refresh()
    whole = cache.read_bytes()
    for damaged in (b"rubbish" * 1000, whole[:4096] + bytes(len(whole) - 4096)):
        cache.write_bytes(damaged)
        assert await succession.refresh()
        assert (succession.current.member, "made again from the ledger" in caplog.text) == (-1, True)
        caplog.clear()
        assert await succession.refresh()
        assert not caplog.messages


def test_an_elected_coordinators_notes_as_a_worker_say_no_stop(tmp_path):
    journal = Journal(tmp_path, keep=5)
    notes = [encode(Work(examples=9, steps=20, full=20)), encode(Orders(steps=(1,))), encode(Orders(end=STOPPED))]
    for round, note in enumerate(notes, 1):
        journal.save_announcement(Announcement(7, round, bytes([round]) * 32, 1, "float32", "me", b"s", note))
    forget_stop(journal)
    assert [said.round for said in journal.announcements(0)] == [1, 2]
