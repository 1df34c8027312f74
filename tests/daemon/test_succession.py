"""What a former coordinator's disk becomes."""

from node.config import Aggregation
from node.daemon.averaging import AveragingLearner, is_coordinators
from node.daemon.journal import Journal
from node.daemon.resume import keep_checkpoint
from node.daemon.succession import step_down
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
