"""What a former coordinator's disk becomes."""

from node.config import Aggregation
from node.daemon.averaging import AveragingLearner, is_coordinators
from node.daemon.journal import Journal
from node.daemon.parts import forget_stop
from node.daemon.resume import keep_checkpoint
from node.daemon.succession import step_down
from node.messages import Announcement
from node.session.coordinator import STOPPED
from node.session.notes import Orders, Work, encode
from tests.daemon.test_averaging import learner


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


def test_an_elected_coordinators_notes_as_a_worker_say_no_stop(tmp_path):
    journal = Journal(tmp_path, keep=5)
    notes = [encode(Work(examples=9, steps=20, full=20)), encode(Orders(steps=(1,))), encode(Orders(end=STOPPED))]
    for round, note in enumerate(notes, 1):
        journal.save_announcement(Announcement(7, round, bytes([round]) * 32, 1, "float32", "me", b"s", note))
    forget_stop(journal)
    assert [said.round for said in journal.announcements(0)] == [1, 2]
