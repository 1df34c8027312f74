"""Elections: the rule on the ledger's words, and whole sessions in virtual time whose coordinator is gone for good."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio

from node.errors import NetworkError
from node.messages import ABSENT
from node.session.ports import Progress
from node.session.succession import Recorded, Term, place_after, term_of, terms
from tests.session.coordinated_fakes import CoordinatedDisk, FakeAggregator, make

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
WAIT = 30.0


def model(member, round, digest, at):
    return Recorded(member, round, digest, False, at)


PAST = [model(0, 1, A, 100), model(1, 1, C, 101), model(0, 2, B, 110), model(2, 2, C, 111)]


def test_who_records_the_last_model_again_after_the_silence_coordinates_from_that_round_on():
    known = terms(0, [*PAST, model(2, 3, B, 140)], WAIT)
    assert [(term.member, term.first, term.newest) for term in known] == [(0, 1, 2), (2, 3, 3)]
    assert [term_of(known, round).member for round in (1, 2, 3, 9)] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    "record",
    [
        model(2, 3, B, 139),  # too early
        model(2, 3, A, 200),  # an older model
        model(2, 4, B, 200),  # leaves a round out
        model(2, 2, B, 200),  # the coordinator's own round
        Recorded(2, 3, B, True, 200),
    ],
)
def test_any_other_record_is_a_workers(record):
    assert len(terms(0, [*PAST, record], WAIT)) == 1


def test_a_session_without_elections_has_one_coordinator():
    assert len(terms(0, [*PAST, model(2, 3, B, 10**9)], 0.0)) == 1


def test_the_ledgers_order_decides_between_two():
    first = [*PAST, model(2, 3, B, 140), model(1, 3, B, 140)]
    assert [term.member for term in terms(0, first, WAIT)] == [0, 2]
    back = [*PAST, model(0, 3, C, 140), model(2, 3, B, 140)]
    assert [term.member for term in terms(0, back, WAIT)] == [0], "the old coordinator was first"
    late = [*PAST, model(2, 3, B, 140), model(0, 3, C, 141), model(0, 4, A, 142)]
    assert [(term.member, term.newest) for term in terms(0, late, WAIT)] == [(0, 2), (2, 3)]


def test_there_is_nothing_to_take_over_before_the_first_model_or_after_the_end():
    assert len(terms(0, [model(1, 1, b"", 500)], WAIT)) == 1
    ended = [*PAST, Recorded(0, 3, bytes(32), True, 112), model(2, 3, B, 500)]
    assert len(terms(0, ended, WAIT)) == 1
    again = [*ended[:-1], model(0, 3, C, 200), model(2, 4, C, 500)]
    assert [term.member for term in terms(0, again, WAIT)] == [0, 2]


def test_the_order_begins_after_who_is_gone():
    assert [place_after(Term(1), own, [0, 1, 2, 3]) for own in (2, 3, 0)] == [0, 1, 2]
    assert place_after(Term(0), 3, [0, 1, 3]) == 1


@dataclass
class Chain:
    """Everybody's records in order, with the time."""

    records: list[Recorded] = field(default_factory=list)


@dataclass
class ElectingDisk(CoordinatedDisk):
    member: int = 0
    chain: Chain = field(default_factory=Chain)
    office: Progress | None = None  # of a new coordinator

    async def load(self):
        return (
            self.office
            if self.office and not any(m.round >= self.office.next_round for m in self.mixes)
            else (await super().load())
        )

    async def commit(self, round, digest, mix):
        if any((known, other) == (round, digest) for known, other, _ in self.records):
            return
        await super().commit(round, digest, mix)
        self.chain.records.append(Recorded(self.member, round, digest, False, int(trio.current_time())))

    async def deliver(self):
        """Records are on the chain at once."""

    async def close(self, round, mix):
        await super().close(round, mix)
        self.chain.records.append(Recorded(self.member, round, bytes(32), True, int(trio.current_time())))


@dataclass
class FakeElection:
    disk: ElectingDisk
    others: list[int]
    wait_s: float = WAIT
    current: Term = field(default_factory=lambda: Term(0))
    model: bytes = b""  # that it took over

    @property
    def succession(self):
        return self

    async def refresh(self):
        await trio.sleep(0.1)
        self.current = terms(0, self.disk.chain.records, self.wait_s)[-1]
        return True

    def place(self, term):
        return place_after(term, self.disk.member, self.others)

    async def take_over(self, term, model, pending):
        if model is None:
            return None
        self.model = model
        await self.disk.commit(term.newest + 1, term.digest, pending)
        await self.refresh()
        return self.current.member == self.disk.member

    async def require_office(self):
        await self.refresh()
        if self.current.member != self.disk.member:
            raise NetworkError(f"member {self.current.member} coordinates since round {self.current.first}")


class Electing:
    """A session of one coordinator and three workers that elect."""

    def __init__(self, **changes):
        self.session, self.chain = make(3, **changes), Chain()
        self.ends, self.offices = {}, {}

    def boss(self, index=0, disk=None, aggregator=None):
        disk = disk or ElectingDisk(member=index, chain=self.chain)
        node = self.session.coordinator(disk, aggregator, index)
        node.life.require_office = FakeElection(disk, [0, 1, 2, 3]).require_office
        return node

    def worker(self, index, disk=None):
        disk = disk or ElectingDisk(member=index, chain=self.chain)
        node = self.session.worker(index, disk)
        election = node.life.election = FakeElection(disk, [0, 1, 2, 3])
        node.life.coordinator = lambda: election.current.member
        node.life.push.listeners = lambda: frozenset({self.session.names[election.current.member]})
        return node

    async def live(self, index, node):
        """A worker's life, and what follows if it is elected."""
        self.ends[index] = await node.life.run()
        if node.life.elected:
            term = node.life.election.current
            node.disk.office = Progress(term.first, None)
            used = {1: term.newest - 1, 2: term.newest - 1, 3: term.newest - 1}
            aggregator = FakeAggregator(node.life.election.model, used, own=index)
            office = self.offices[index] = self.boss(index, node.disk, aggregator)
            self.ends[index] = await office.life.run()
        node.leave()


@asynccontextmanager
async def without_coordinator(all, boss, workers, round, at_record=0):
    """The session once its coordinator died after so many rounds; the block ends when all workers have ended.

    `at_record`: it died a while after it wrote that record.
    """
    with trio.fail_after(2000):
        async with trio.open_nursery() as nursery:
            for index, worker in workers.items():
                nursery.start_soon(all.live, index, worker)
            with trio.CancelScope() as scope:
                nursery.start_soon(end_after, boss, round, scope, at_record)
                async with trio.open_nursery() as its_own:
                    its_own.start_soon(boss.disk.deliver)
                    await boss.run()
            yield nursery


async def end_after(boss, round, scope, record=0):
    while len(boss.disk.mixes) < round:
        await trio.sleep(0.05)
    while record and not any(known == record for known, _, _ in boss.disk.records):
        await trio.sleep(0.05)
    await trio.sleep(1.5 if record else 0)
    boss.life.push.once = boss.life.ports.peers.announce = lambda *_: trio.sleep(0)  # killed: it says no farewell
    boss.leave()
    scope.cancel()


async def test_the_next_member_goes_on_from_the_last_model_and_no_recorded_round_is_lost(autojump_clock):
    all = Electing(rounds=8)
    boss, workers = all.boss(), {i: all.worker(i) for i in (1, 2, 3)}
    async with without_coordinator(all, boss, workers, 3):
        pass
    assert list(all.offices) == [1]
    known = terms(0, all.chain.records, WAIT)
    assert [term.member for term in known] == [0, 1]
    first, newest = known[1].first, known[0].newest
    assert first == newest + 1
    last = next(record for record in all.chain.records if (record.member, record.round) == (0, newest))
    assert next(r for r in all.chain.records if (r.member, r.round) == (1, first)).digest == last.digest
    rounds = [mix.round for mix in all.offices[1].disk.mixes if mix.inputs[0].lag == ABSENT]
    assert rounds == list(range(first, 9)), "it coordinates to the end"
    for index in (2, 3):
        assert workers[index].life.trainee.model == all.offices[1].life.aggregator.content
        assert all.ends[index] == 8


async def test_when_the_next_in_line_is_gone_too_the_one_after_it_takes_over(autojump_clock):
    all = Electing(rounds=6, quorum=1)
    boss, workers = all.boss(), {i: all.worker(i) for i in (2, 3)}
    async with without_coordinator(all, boss, workers, 2):
        pass
    assert list(all.offices) == [2]
    assert all.ends == {2: 6, 3: 6}


async def test_a_coordinator_that_comes_back_in_time_stays_one(autojump_clock):
    all = Electing(rounds=6)
    boss, workers = all.boss(), {i: all.worker(i) for i in (1, 2, 3)}
    async with without_coordinator(all, boss, workers, 2) as nursery:
        await trio.sleep(WAIT / 2)
        again = all.boss(0, boss.disk, boss.life.aggregator)
        nursery.start_soon(again.run)
    assert not all.offices
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4, 5, 6]


async def test_a_coordinator_that_comes_back_too_late_records_nothing_and_says_who_coordinates(autojump_clock):
    all = Electing(rounds=40)
    boss, workers = all.boss(), {i: all.worker(i) for i in (1, 2, 3)}
    async with without_coordinator(all, boss, workers, 2):
        await trio.sleep(2 * WAIT)
        records = list(boss.disk.records)
        with pytest.raises(NetworkError, match="member 1 coordinates since round"):
            await all.boss(0, boss.disk, boss.life.aggregator).life.run()
        assert boss.disk.records == records
        boss.leave()
    assert list(all.offices) == [1]


async def test_a_worker_that_was_second_on_the_ledger_stays_a_worker(autojump_clock):
    all = Electing(rounds=12, quorum=1)
    boss, workers = all.boss(), {i: all.worker(i) for i in (1, 2, 3)}
    workers[2].life.election.place = lambda term: 0  # at the same time as the first
    async with without_coordinator(all, boss, workers, 2):
        pass
    assert len(all.offices) == 1
    assert len(terms(0, all.chain.records, WAIT)) == 2
    assert set(all.ends.values()) == {12}


async def test_where_nobody_can_take_over_the_workers_end_and_say_what_is_missing(autojump_clock):
    all = Electing(rounds=8)
    boss, workers = all.boss(), {i: all.worker(i) for i in (1, 2, 3)}
    tries = []
    for worker in workers.values():
        worker.life.patience_s = 100.0
        worker.life.election.take_over = partial(decline, tries)
    with pytest.raises(ExceptionGroup) as raised:
        async with without_coordinator(all, boss, workers, 2):
            pass
    assert raised.group_contains(NetworkError, match="no coordinator for 250 s")  # and 30 s for each of four, and one
    assert len(tries) > 3, "it tries again, until then"


async def decline(tries, *_):
    """The last model is not to be had."""
    await trio.lowlevel.checkpoint()
    tries.append(1)


async def test_a_worker_uses_no_round_up_of_which_the_ledger_knows_nothing(autojump_clock):
    """Else none could take over from a coordinator that died with its record, which has to be done in that round."""
    session = Electing(rounds=8)
    boss, workers = (
        session.boss(disk=LateDisk(member=0, chain=session.chain)),
        {i: session.worker(i) for i in (1, 2, 3)},
    )
    boss.life.require_office = partial(boss.disk.confirmed, boss.life.require_office)
    async with without_coordinator(session, boss, workers, 2, at_record=3):
        pass
    assert boss.disk.announcements[-1].round == 3
    known = terms(0, session.chain.records, WAIT)
    assert [(term.member, term.first) for term in known] == [(0, 1), (1, 3)]
    recorded = {(each.member, each.round): each.digest for each in session.chain.records}
    for index in (2, 3):
        adopted = {adopted_round(mix, index): mix.mixed_hash for mix in workers[index].disk.mixes}
        assert list(adopted)[:2] == [2, 3]
        assert all(digest == recorded[term_of(known, r).member, r] for r, digest in adopted.items() if r <= 8)
    assert set(session.ends.values()) == {8}


def adopted_round(mix, own):
    """Of the coordinator's model in a worker's row."""
    return mix.round - next(entry.lag for entry in mix.inputs if entry.member != own)


@dataclass
class LateDisk(ElectingDisk):
    """Its records are on the chain some two seconds after they were written, if its node lives."""

    on_their_way: list[Recorded] = field(default_factory=list)

    async def commit(self, round, digest, mix):
        chain, self.chain = self.chain, Chain()
        await super().commit(round, digest, mix)
        self.on_their_way += self.chain.records
        self.chain = chain

    async def deliver(self):
        while True:
            await trio.sleep(0.1)
            while self.on_their_way and trio.current_time() - self.on_their_way[0].at >= 3:
                self.chain.records.append(self.on_their_way.pop(0))

    async def confirmed(self, then):
        while self.on_their_way:
            await trio.sleep(0.1)
        await then()
