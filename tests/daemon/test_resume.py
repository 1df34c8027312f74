"""Going on without the state, killed between its durable writes: the next start gets to the same place."""

import hashlib
from contextlib import closing
from types import SimpleNamespace

import pytest

from node.config import Aggregation
from node.daemon.journal import Journal
from node.daemon.learner import Seat, TorchLearner
from node.daemon.ports import DiskJournal
from node.daemon.resume import Known, Past, Resumption
from node.learning import parameters
from node.learning.codecs import codec
from node.learning.task import Share, prepare
from node.learning.trust import TrustSettings
from tests.learning.example_task import task

LEARNER = prepare(task, seed=3)
DATA = task.data(Share(seed=3))
LAST = 5  # the last round that is on the ledger
CID = "bafybeif7hpdcdvrplrvuymqowt3tsxyxhyqthmpydcvhtxvmd5zlgpwcei"


class Killed(Exception):
    """The process ends here."""


def fresh():
    """The learner of a start; each finds the session's initial parameters."""
    return TorchLearner(LEARNER, DATA, codec("float32"), Seat(7, 3, 0), TrustSettings(), LEARNER.initial())


def mixed():
    """The mix of the round before the last, in a snapshot."""
    return parameters.encode(LEARNER.spec, LEARNER.initial() + 1)


async def update():
    """What the last round's training gives, from that mix."""
    learner = fresh()
    learner.flat = parameters.decode(LEARNER.spec, mixed())
    return await learner.train(LAST)


class Snapshots:
    """Has the one that the ledger names."""

    async def read(self, _cid, _name, _limit):
        return mixed()


async def starts(place, monkeypatch, committed, coordinated=None, dies=False):
    """One start up to where the rounds go on: the next round, the committed update, and what was told."""
    known = Known(0, LAST - 1, CID, hashlib.sha256(mixed()).digest())
    monkeypatch.setattr("node.daemon.resume.read_past", lambda *_: Past(LAST + 1, committed, (known,), {}))
    ledger = SimpleNamespace(head=lambda *_: SimpleNamespace(next_round=LAST + 1))
    session = SimpleNamespace(coordinated=coordinated, rounds=50)
    prepared = SimpleNamespace(
        opened=SimpleNamespace(ledger=ledger, session_id=7, session=session),
        account=SimpleNamespace(address="0x0"),
        directory=SimpleNamespace(own_index=0),
        learner=fresh(),
    )
    told = []
    with closing(Journal(place, keep=6)) as journal:
        if dies:

            def die(*_):
                raise Killed

            monkeypatch.setattr(journal, "save_mixless", die)
        office = None if coordinated is None else 1
        resumed = await Resumption(prepared, journal, Snapshots(), False, 0.0, office, told.append).run()
        progress = await DiskJournal(journal, SimpleNamespace(restore=lambda _: None)).load()
        return resumed, progress, told


@pytest.mark.real
async def test_killed_before_its_checkpoint_a_member_that_lost_its_disk_goes_on_where_it_would_have(
    tmp_path, monkeypatch
):
    trained = await update()
    with pytest.raises(Killed):
        await starts(tmp_path, monkeypatch, trained.digest, dies=True)
    for _ in range(2):  # again, and after that start was killed before the rounds went on
        resumed, progress, _ = await starts(tmp_path, monkeypatch, trained.digest)
        assert resumed
        assert (progress.next_round, progress.committed.digest) == (LAST, trained.digest)


async def test_killed_before_its_next_model_a_coordinator_that_lost_its_disk_has_no_older_copy(tmp_path, monkeypatch):
    coordinated = SimpleNamespace(aggregation=Aggregation())
    committed = hashlib.sha256(mixed()).digest()
    _, progress, told = await starts(tmp_path, monkeypatch, committed, coordinated)
    assert (progress.next_round, told[-1].endswith("nothing is lost")) == (LAST, True)
    _, progress, told = await starts(tmp_path, monkeypatch, committed, coordinated)
    assert (progress.next_round, told) == (LAST, [])
