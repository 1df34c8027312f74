import copy
import itertools

import pytest
import trio

from node.errors import NetworkError, SessionOver, UpdateError
from node.messages import ABSENT, Announcement, Content
from node.session.balance import FIRST_STEPS
from node.session.bounds import Most
from node.session.convergence import Goal
from node.session.following import LOST_S
from node.session.notes import Orders, Work, encode, read_orders
from tests.session.coordinated_fakes import FULL, CoordinatedDisk, FakeAggregator, make
from tests.session.fakes import sha256


async def run_and_stop(nodes, seconds):
    """The coordinator is the first, and is told to stop after so long."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.run)
        await trio.sleep(seconds)
        nodes[0].life.stopping.set()


async def run_all(nodes):
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.run)


def lags(mix):
    return {entry.member: entry.lag for entry in mix.inputs}


async def test_all_workers_are_in_every_round_and_everybody_ends_with_the_last_model(autojump_clock):
    session = make(3)
    boss, *workers = nodes = [session.coordinator(), *(session.worker(i) for i in (1, 2, 3))]
    await run_all(nodes)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]
    assert all(lags(mix) == {0: 0, 1: 0, 2: 0, 3: 0} for mix in boss.disk.mixes)
    for worker in workers:
        assert worker.life.trainee.model == boss.life.aggregator.content
        assert [mix.mixed_hash for mix in worker.disk.mixes] == [mix.mixed_hash for mix in boss.disk.mixes]
        assert all(lags(mix) == {0: -1, worker.life.trainee.member: 0} for mix in worker.disk.mixes)


async def test_what_is_committed_is_the_model_that_workers_start_from(autojump_clock):
    session = make(2)
    boss, *_ = nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    await run_all(nodes)
    hashes = [digest for _, digest, _ in boss.disk.records]
    mixed = [mix.mixed_hash for mix in boss.disk.mixes]
    assert hashes == [sha256(b"start"), *mixed[:3], None]
    assert [mix.round if mix else None for _, _, mix in boss.disk.records] == [None, 1, 2, 3, 4]


async def test_announcements_that_gossip_loses_are_pushed_in_person(autojump_clock):
    session = make(2)
    session.bus.deaf = True
    before = trio.current_time()
    boss, *_ = nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    await run_all(nodes)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]
    assert trio.current_time() - before < 4 * 2


async def test_a_worker_whose_privacy_budget_is_spent_follows_without_an_update(autojump_clock):
    session = make(3)
    boss, *workers = nodes = [session.coordinator(), *(session.worker(i) for i in (1, 2, 3))]
    workers[2].life.trainee.affords = 2
    await run_all(nodes)
    assert [lags(mix)[3] for mix in boss.disk.mixes] == [0, 0, ABSENT, ABSENT]
    assert [mix.epsilon for mix in workers[2].disk.mixes] == [0.1, 0.2]
    assert [mix.epsilon for mix in workers[0].disk.mixes] == [None] * 4
    assert workers[2].life.trainee.model == boss.life.aggregator.content


async def test_a_worker_that_never_comes_is_absent_and_not_waited_for(autojump_clock):
    session = make(3)
    nodes = [session.coordinator(), session.worker(1), session.worker(2), session.worker(3)]
    session.bus.offline.add("worker3")
    before = trio.current_time()
    await run_all(nodes[:3])
    assert all(lags(mix)[3] == ABSENT for mix in nodes[0].disk.mixes)
    assert trio.current_time() - before < 4 * (1 + 0.5)


async def test_below_the_quorum_the_round_waits_and_says_how_long(autojump_clock):
    session = make(2, bound_s=5.0)
    boss, first, second = session.coordinator(), session.worker(1), session.worker(2)
    session.bus.offline.add("worker2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boss.run)
        nursery.start_soon(first.run)
        await trio.sleep(20)
        standing = boss.standings[-1]
        assert (standing.below_quorum, standing.arrived, standing.quorum) == (True, 1, 2)
        assert standing.left_s == pytest.approx(82, abs=1)
        assert not boss.disk.mixes
        session.bus.offline.discard("worker2")
        nursery.start_soon(second.run)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]


async def test_a_coordinator_that_never_gets_its_quorum_gives_up_with_a_cure(autojump_clock):
    session = make(2, bound_s=5.0)
    boss, worker = session.coordinator(), session.worker(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        with pytest.raises(NetworkError, match="with 1 workers connected: start more workers"):
            await boss.run()
        nursery.cancel_scope.cancel()


async def test_a_worker_that_is_at_work_is_waited_for_below_the_quorum(autojump_clock):
    session = make(2, rounds=2, quorum=2, bound_s=1000.0, patience_s=100.0, balance=False)
    nodes = [session.coordinator(), session.worker(1), session.worker(2, step_s=120 / FULL)]
    await run_all(nodes)
    assert [set(lags(mix).values()) for mix in nodes[0].disk.mixes] == [{0}, {0}]
    assert not any(standing.below_quorum for standing in nodes[0].standings)
    assert min(standing.left_s for standing in nodes[0].standings) > 0


async def test_a_worker_that_is_cut_off_at_work_makes_the_patience_run(autojump_clock):
    session = make(2, rounds=2, quorum=2, bound_s=1000.0, patience_s=100.0, balance=False)
    boss, one, two = session.coordinator(), session.worker(1), session.worker(2, step_s=10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        nursery.start_soon(cut_off, session, "worker2", 50.0)
        with pytest.raises(NetworkError, match=r"1 of 2 updates.*with 1 workers connected: start more workers"):
            await boss.run()
        assert 150 <= trio.current_time() - boss.life.collector._started <= 152
        nursery.cancel_scope.cancel()


async def cut_off(session, name, seconds):
    await trio.sleep(seconds)
    session.bus.offline.add(name)


async def test_who_is_connected_and_sends_nothing_is_named(autojump_clock):
    session = make(2, rounds=2, quorum=2, bound_s=30.0, patience_s=100.0, balance=False)
    boss, one, two = session.coordinator(), session.worker(1), session.worker(2, step_s=1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        with pytest.raises(NetworkError, match=r"workers 2 are connected, but sent none within .* deadline of 30 s"):
            await boss.run()
        assert 130 <= trio.current_time() - boss.life.collector._started <= 132
        nursery.cancel_scope.cancel()


async def test_a_worker_that_hears_its_coordinator_asks_for_nothing(autojump_clock):
    session = make(2, rounds=30)
    nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    asked = [count_questions(node) for node in nodes[1:]]
    before = trio.current_time()
    await run_all(nodes)
    assert trio.current_time() - before > 2 * LOST_S
    assert asked == [[], []]


async def test_a_worker_asks_once_in_ten_seconds_of_silence(autojump_clock):
    session = make(2, rounds=1, balance=False, bound_s=1000.0)
    nodes = [session.coordinator(), session.worker(1), session.worker(2, step_s=35 / FULL)]
    asked = count_questions(nodes[1])
    await run_all(nodes)
    assert asked == ["boss"] * 3


def count_questions(node):
    peers, asked = node.life.ports.peers, []
    ask = peers.ask

    async def counted(peer):
        asked.append(peer)
        await ask(peer)

    peers.ask = counted
    return asked


async def test_an_error_that_no_restart_mends_ends_the_session_for_everybody(autojump_clock):
    session = make(2)
    boss, *workers = session.coordinator(), session.worker(1), session.worker(2)
    aggregate = boss.life.aggregator.aggregate

    async def explode(round, updates):
        if round == 3:
            raise SessionOver("the model of round 3 is not finite")
        return await aggregate(round, updates)

    boss.life.aggregator.aggregate = explode
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        with pytest.raises(SessionOver, match="round 3 is not finite"):
            await boss.run()
    assert trio.current_time() - before < 10, "nobody waits for a coordinator that does not come"
    for worker in workers:
        assert worker.life.ended == boss.life.ended == "the model of round 3 is not finite"
        assert worker.life.trainee.model == boss.life.aggregator.content, "the model that round 3 began with"
    assert [mix.round for mix in boss.disk.mixes] == [1, 2]


async def test_after_an_error_that_a_restart_mends_the_workers_go_on_waiting(autojump_clock):
    session = make(2, bound_s=5.0)
    boss, one, two = session.coordinator(), session.worker(1), session.worker(2)
    session.bus.offline.add("worker2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        with pytest.raises(NetworkError, match="start more workers"):
            await boss.run()
        assert not one.life.ended
        session.bus.offline |= {"boss"}
        await trio.sleep(100)
        session.bus.offline.discard("worker2")
        nursery.start_soon(session.coordinator(boss.disk, boss.life.aggregator).run)
        nursery.start_soon(two.run)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]
    assert "last round" in one.life.ended


async def test_orders_for_more_members_than_fit_balance_nothing_and_that_is_said_once(autojump_clock, caplog):
    session = make(2, rounds=3)
    nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    nodes[0].life.collector.balance.steps = lambda *_: (1000,) * 2000
    await run_all(nodes)
    notes = [read_orders(said.note) for said in nodes[0].disk.announcements]
    assert [(len(note.steps), note.others) for note in notes[:3]] == [(0, FIRST_STEPS), (0, 0), (0, 0)]
    [said] = [record.message for record in caplog.records if "note" in record.message]
    assert "the steps asked of 2000 members take more than a note's 8192 bytes" in said


def test_orders_for_a_large_session_fit():
    orders = Orders(steps=(1500,) * 1500, others=2, data="ab" * 32 + ":12345678", end="")
    assert read_orders(encode(orders)) == orders


async def test_a_straggler_leaves_off_and_its_late_update_counts_in_the_next_round(autojump_clock):
    session = make(4, rounds=6, balance=False)
    nodes = [session.coordinator(), *(session.worker(i, step_s=2.0 if i == 4 else 0.05) for i in (1, 2, 3, 4))]
    await run_all(nodes)
    seen = [lags(mix)[4] for mix in nodes[0].disk.mixes]
    assert 1 in seen
    assert 0 not in seen
    assert all(steps < FULL for _, steps in nodes[4].life.trainee.trained)


async def test_where_late_updates_are_dropped_a_straggler_is_absent(autojump_clock):
    session = make(4, rounds=6, balance=False, staleness=0)
    nodes = [session.coordinator(), *(session.worker(i, step_s=2.0 if i == 4 else 0.05) for i in (1, 2, 3, 4))]
    await run_all(nodes)
    assert all(lags(mix)[4] == ABSENT for mix in nodes[0].disk.mixes)
    assert [mix.round for mix in nodes[4].disk.mixes] == []


def everybody(slow, **changes):
    """A session of eight in which every round needs all of them."""
    session = make(8, rounds=10, quorum=8, bound_s=1000.0, **changes)
    return [session.coordinator(), *(session.worker(i, step_s=slow.get(i, 0.05)) for i in range(1, 9))]


async def seconds_of(nodes):
    before = trio.current_time()
    await run_all(nodes)
    return trio.current_time() - before


SLOW = {7: 0.2, 8: 1.0}


async def test_slow_workers_get_less_work_and_nobody_waits_for_them(autojump_clock):
    fast = await seconds_of(everybody({}))
    without = await seconds_of(everybody(SLOW, balance=False))
    balanced = await seconds_of(nodes := everybody(SLOW))
    assert without > 10 * fast
    assert balanced < 1.3 * fast
    assert all(ABSENT not in lags(mix).values() for mix in nodes[0].disk.mixes), "nobody is left out"
    last = {timing.member: timing for timing in nodes[0].reports[-1].work}
    assert last[1].steps == FULL
    assert 4 <= last[7].steps <= 5
    assert last[8].steps == 1
    assert {timing.steps for timing in nodes[0].reports[0].work} == {FIRST_STEPS}
    for this, following in itertools.pairwise(nodes[0].reports):
        told = {timing.member: timing for timing in this.work}
        assert all(done.steps == told[done.member].next_steps <= FULL for done in following.work)


async def test_without_balancing_everybody_is_asked_for_a_full_round(autojump_clock):
    nodes = everybody(SLOW, balance=False)
    await run_all(nodes)
    assert all(timing.steps == FULL for report in nodes[0].reports for timing in report.work)
    assert all(read_orders(said.note) == Orders() for said in nodes[0].disk.announcements[:-1])


async def test_a_slow_worker_that_comes_later_is_asked_for_a_few_steps_first(autojump_clock):
    session = make(3, rounds=12, bound_s=1000.0)
    boss, one, two, late = session.coordinator(), session.worker(1), session.worker(2), session.worker(3, step_s=1.0)
    session.bus.offline.add("worker3")
    async with trio.open_nursery() as nursery:
        for node in (boss, one, two):
            nursery.start_soon(node.run)
        await trio.sleep(4.5)
        session.bus.offline.discard("worker3")
        for announcement in boss.disk.announcements:
            late.board.post(announcement)
        nursery.start_soon(late.run)
    assert [steps for _, steps in late.life.trainee.trained][:2] == [FIRST_STEPS, 1]
    assert max(report.gather_s for report in boss.reports) < 2.5, "nobody waits for its 20 steps of a second each"


async def test_a_coordinator_that_starts_again_measures_everybody_again(autojump_clock):
    session = make(2, rounds=8, bound_s=1000.0)
    boss, *workers = nodes = [session.coordinator(), session.worker(1), session.worker(2, step_s=1.0)]
    await run_and_stop(nodes, 4.0)
    again = [session.coordinator(boss.disk, boss.life.aggregator)]
    again += [session.worker(i, worker.disk, worker.life.trainee.step_s) for i, worker in enumerate(workers, 1)]
    await run_all(again)
    assert {timing.steps for timing in again[0].reports[0].work} == {FIRST_STEPS}
    assert max(report.gather_s for report in again[0].reports) < 15


async def test_a_killed_worker_is_dropped_after_the_deadline_and_rejoins(autojump_clock):
    session = make(3, rounds=30)
    boss, one, two, three = session.coordinator(), *(session.worker(i) for i in (1, 2, 3))
    async with trio.open_nursery() as nursery:
        for node in (boss, one, two):
            nursery.start_soon(node.run)
        with trio.move_on_after(4.5):
            await three.run()
        session.bus.offline.add("worker3")
        await trio.sleep(6)
        session.bus.offline.discard("worker3")
        again = session.worker(3, three.disk)
        for announcement in boss.disk.announcements:
            again.board.post(announcement)
        nursery.start_soon(again.run)
    seen = [lags(mix)[3] for mix in boss.disk.mixes]
    assert seen[0] == seen[-1] == 0
    assert ABSENT in seen
    rounds = [round for round, digest, _ in three.disk.records if digest]
    assert rounds == sorted(set(rounds))


@pytest.mark.parametrize("seconds", [0.3, 1.02, 1.5, 2.05, 3.3])
async def test_a_killed_coordinator_goes_on_from_its_last_recorded_round(autojump_clock, seconds):
    session = make(3, rounds=6)
    boss, *workers = session.coordinator(), *(session.worker(i) for i in (1, 2, 3))
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + seconds
            async with trio.open_nursery() as inner:
                inner.start_soon(boss.life.collector.run)
                await boss.life._rounds()
        session.bus.offline.add("boss")
        await trio.sleep(3)
        session.bus.offline.discard("boss")
        aggregator = FakeAggregator()
        if boss.disk.mixes:
            aggregator.content, aggregator.went_in = boss.life.aggregator.content, boss.life.aggregator.went_in
        again = session.coordinator(boss.disk, aggregator)
        for worker in workers:
            for announcement in worker.disk.announcements:
                again.board.post(announcement)
        nursery.start_soon(again.run)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4, 5, 6]
    assert [round for round, digest, _ in boss.disk.records if digest] == [1, 2, 3, 4, 5, 6]
    missed = [lags(mix)[1] for mix in boss.disk.mixes if lags(mix)[1]]
    assert len(missed) <= 1  # its download broke off with the coordinator, and it tried again too late


class MortalDisk(CoordinatedDisk):
    """Its node is killed just before the write number `left`, once."""

    left, kill, aggregator, checkpoint = -1, None, None, FakeAggregator()

    async def _live(self):
        self.left -= 1
        if self.left == -1:
            self.kill.cancel()
            await trio.sleep_forever()

    async def trained(self, *what):
        await self._live()
        return await super().trained(*what)

    async def announced(self, announcement):
        await self._live()
        await super().announced(announcement)

    async def mixed(self, mix):
        await self._live()
        await super().mixed(mix)
        self.checkpoint = copy.deepcopy(self.aggregator)

    async def commit(self, round, digest, mix):
        await self._live()
        await super().commit(round, digest, mix)


async def run_until_killed(node):
    with trio.CancelScope() as node.disk.kill:
        if node.life.ports.directory.own_index:
            await node.life.run()
        else:  # without its last words
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.life.collector.run)
                nursery.start_soon(node.life.push.run)
                await node.life._rounds()
    return node.disk.kill.cancelled_caught


@pytest.mark.parametrize("who", ["coordinator", "worker"])
@pytest.mark.parametrize("write", range(15))
async def test_at_full_participation_a_kill_before_any_write_changes_no_bit(autojump_clock, who, write):
    """Without balancing, and with all workers as the quorum."""
    undisturbed = make(3, quorum=3, balance=False)
    boss, *workers = [undisturbed.coordinator(), *(undisturbed.worker(i) for i in (1, 2, 3))]
    await run_all([boss, *workers])
    session, disks = make(3, quorum=3, balance=False), [MortalDisk() for _ in range(4)]
    mortal = 0 if who == "coordinator" else 2
    disks[mortal].left = write
    disks[0].aggregator = FakeAggregator()
    nodes = [session.coordinator(disks[0], disks[0].aggregator), *(session.worker(i, disks[i]) for i in (1, 2, 3))]
    async with trio.open_nursery() as nursery:
        for index, node in enumerate(nodes):
            if index != mortal:
                nursery.start_soon(node.run)
        assert await run_until_killed(nodes[mortal])
        session.bus.offline.add(session.names[mortal])
        await trio.sleep(3)
        disks[0].aggregator = copy.deepcopy(disks[0].checkpoint)
        again = session.worker(2, disks[2]) if mortal else session.coordinator(disks[0], disks[0].aggregator)
        nursery.start_soon(again.run)
    assert [mix.mixed_hash for mix in disks[0].mixes] == [mix.mixed_hash for mix in boss.disk.mixes]
    for disk, other in zip(disks, [boss.disk, *(worker.disk for worker in workers)], strict=True):
        assert [one[:2] for one in disk.records if one[1]] == [one[:2] for one in other.records if one[1]]


async def test_the_same_bytes_never_count_twice(autojump_clock):
    session = make(3, rounds=2)
    boss, *workers = session.coordinator(), *(session.worker(i) for i in (1, 2))
    copied = session.worker(3)

    async def copy():
        while not (said := workers[0].disk.announcements):
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        stolen = workers[0].disk.payloads[said[0].digest]
        copied.disk.payloads[said[0].digest] = stolen
        note = encode(Work(examples=10**9, steps=1, full=1))
        boss.board.post(Announcement(7, 1, said[0].digest, len(stolen), "float32", "worker3", b"", note))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy)
        await run_all([boss, *workers])
    assert all(3 not in counted for counted in boss.life.aggregator.counted)


async def copying(boss, victim, thief, seconds=0.1):
    """Announces, for ever, what the victim announces as the thief's own, so many seconds later, with the same bytes."""
    seen = set()
    while True:
        for said in [each for each in victim.disk.announcements if each.digest not in seen]:
            seen.add(said.digest)
            await trio.sleep(seconds)
            stolen = thief.disk.payloads[said.digest] = victim.disk.payloads[said.digest]
            note = encode(Work(examples=200, steps=20, full=20))
            name = thief.life.ports.peers.peer_id
            boss.board.post(Announcement(7, said.round, said.digest, len(stolen), "float32", name, b"", note))
        await trio.sleep(0.01)


async def test_a_copier_with_a_quicker_link_takes_nobodys_update_away(autojump_clock):
    session = make(3, rounds=3)
    boss, *workers = session.coordinator(), *(session.worker(i) for i in (1, 2))
    session.bus.slow["worker2"] = 0.5  # and the thief's bytes come in 0.01 s
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copying, boss, workers[1], session.worker(3))
        await run_all([boss, *workers])
        nursery.cancel_scope.cancel()
    assert [set(counted) for counted in boss.life.aggregator.counted] == [{1, 2}] * 3


async def test_bytes_that_their_first_announcer_does_not_give_may_come_from_another(autojump_clock):
    """Who reads a hash on the ledger could else announce it first, give nothing, and shut out who trained it."""
    session = make(3, rounds=2, quorum=1)
    boss, worker, _ = session.coordinator(), session.worker(1), session.worker(3)
    session.bus.corrupt.add("worker3")
    honest = worker.life.ports.journal.trained

    async def betrayed(round, trained, note=b""):
        squatted = Announcement(7, round, trained.digest, trained.size, "float32", "worker3", b"", note)
        assert boss.board.post(squatted) is None
        return await honest(round, trained, note)

    worker.life.ports.journal.trained = betrayed
    await run_all([boss, worker])
    assert [set(counted) for counted in boss.life.aggregator.counted] == [{1}] * 2


def boasting(node, **lies):
    """A worker that says in every round what it likes to."""
    honest = node.life.trainee.train

    async def train(round, steps, stop):
        done = await honest(round, steps, stop)
        return type(done)(done.trained, done.work.model_copy(update=lies))

    node.life.trainee.train = train


LIES = {"examples": 2**40, "steps": 2**31, "full": 2**31, "training_s": 0.0}


async def test_nobody_counts_for_more_than_it_was_asked_to_do(autojump_clock):
    session = make(2, rounds=3)
    nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    boasting(nodes[1], examples=10**9, steps=10**6)
    await run_all(nodes)
    counted = nodes[0].life.aggregator.counted
    assert counted[0] == {1: 10 * FIRST_STEPS, 2: 10 * FIRST_STEPS}
    assert all(round[1] <= 10 * FULL for round in counted)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("balance", [True, False])
async def test_whoever_boasts_counts_for_ten_times_the_others_at_most(autojump_clock, balance, workers):
    session = make(workers, rounds=6, balance=balance, quorum=workers)
    nodes = [session.coordinator(), *(session.worker(i) for i in range(1, workers + 1))]
    boasting(nodes[1], **LIES)
    await run_all(nodes)
    for counted in nodes[0].life.aggregator.counted:
        assert counted[1] <= 10 * max(counted[member] for member in range(2, workers + 1)) <= 10 * 10 * FULL
    assert max(nodes[0].life.shares, default=0) <= 10 * FULL, "nor is it asked for more"
    work = [timing for report in nodes[0].reports for timing in report.work]
    assert max(timing.examples for timing in work) <= 10 * 10 * FULL, "the snapshot says what counted"


@pytest.mark.parametrize("balance", [True, False])
async def test_where_the_coordinator_knows_the_data_nobody_counts_for_more_than_those(autojump_clock, balance):
    session = make(2, rounds=6, balance=balance)
    nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    nodes[0].life.collector.most = {1: Most(FULL, 10 * FULL - 3), 2: Most(50 * FULL, 500 * FULL)}.__getitem__
    boasting(nodes[1], **LIES)
    boasting(nodes[2], steps=50 * FULL, full=50 * FULL, examples=500 * FULL)
    await run_all(nodes)
    counted = nodes[0].life.aggregator.counted
    assert all(round[1] <= 10 * FULL - 3 for round in counted)
    if not balance:
        assert counted[0][2] == 500 * FULL, "an honest large share is not cut"


async def test_an_update_without_a_note_or_with_bad_numbers_is_refused(autojump_clock):
    session = make(3, rounds=2)
    boss, *workers = session.coordinator(), *(session.worker(i) for i in (1, 2, 3))
    boss.life.aggregator.poison = {b"update 1 of 3, %d steps from start" % FIRST_STEPS}
    await run_all([boss, *workers])
    assert lags(boss.disk.mixes[0])[3] == ABSENT
    assert lags(boss.disk.mixes[1])[3] == 0


@pytest.mark.parametrize(
    ("goal", "accuracies", "rounds", "words"),
    [
        (Goal("accuracy", target=0.8), [0.5, 0.7, 0.9, 0.95], 3, "reached the target"),
        (Goal("accuracy", plateau=2), [0.5, 0.7, 0.7, 0.6, 0.9], 4, "did not improve"),
        (Goal(), [0.5, 0.9], 4, "last round"),
    ],
)
async def test_a_session_ends_for_everybody_when_it_is_good_enough(autojump_clock, goal, accuracies, rounds, words):
    session = make(2, goal=goal)
    boss = session.coordinator(aggregator=FakeAggregator(accuracies=accuracies))
    workers = [session.worker(1), session.worker(2)]
    await run_all([boss, *workers])
    assert boss.life.finished == rounds
    for node in (boss, *workers):
        assert words in node.life.ended
        assert node.life.finished == rounds


async def test_a_stopped_coordinator_finishes_the_round_and_ends_the_session_for_everybody(autojump_clock):
    session = make(2, rounds=1000)
    boss, *workers = nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    await run_and_stop(nodes, 5.5)
    assert 3 < boss.life.finished < 10
    assert [worker.life.finished for worker in workers] == [boss.life.finished] * 2
    assert all("stopped" in worker.life.ended for worker in workers)
    assert all(node.disk.is_closed for node in nodes)


async def test_a_coordinator_that_has_to_go_at_once_gives_the_round_up_and_still_tells_everybody(autojump_clock):
    session = make(2, rounds=1000)
    session.bus.deaf = True
    boss, *workers = session.coordinator(), session.worker(1), session.worker(2)
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        with trio.move_on_after(5.4):
            await boss.run()
    for worker in workers:
        assert "stopped" in worker.life.ended
        assert worker.life.trainee.model == boss.life.aggregator.content


@pytest.mark.parametrize("seconds", [0.02, 0.3, 1.02, 1.5, 2.2, 2.9, 3.3])
async def test_a_coordinator_that_had_to_go_at_once_contradicts_nothing_when_everybody_starts_again(
    autojump_clock, seconds
):
    session = make(2, rounds=8)
    nodes = [session.coordinator(), session.worker(1), session.worker(2, step_s=0.3)]
    said = listen(nodes)
    async with trio.open_nursery() as nursery:
        for worker in nodes[1:]:
            nursery.start_soon(worker.run)
        with trio.move_on_after(seconds):
            await nodes[0].run()
        nodes[0].leave()
    assert all("stopped" in worker.life.ended for worker in nodes[1:])
    again = [session.coordinator(nodes[0].disk, nodes[0].life.aggregator)]
    again += [session.worker(index, nodes[index].disk, step_s=0.3) for index in (1, 2)]
    said += listen(again)
    await run_all(again)
    assert [mix.round for mix in nodes[0].disk.mixes] == list(range(1, 9))
    digests = {}
    for one in said:
        assert digests.setdefault((one.peer_id, one.round), one.digest) == one.digest, "two models of one round"
    recorded = {round: digest for round, digest, _ in nodes[0].disk.records if digest}
    for worker in nodes[1:]:
        rows = {mix.round - lags(mix)[0]: mix.mixed_hash for mix in worker.disk.mixes}
        assert all(recorded.get(round, digest) == digest for round, digest in rows.items())


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_notes_on_one_model_the_end_counts_whichever_came_first(order):
    node = make(1).worker(1)
    notes = [encode(Orders(steps=(1,))), encode(Orders(end="stopped"))]
    said = [Announcement(7, 2, b"d" * 32, 1, "float32", "boss", b"s", note) for note in notes]
    for one in said[::order]:
        assert node.board.post(one) is None
    assert node.board.newest(0) == said[1]


def listen(nodes):
    """What the nodes announce from now on, to all or in person."""
    said = []
    for node in nodes:
        peers = node.life.ports.peers
        peers.announce, peers.tell = heard(said, peers.announce), heard(said, peers.tell)
    return said


def heard(said, tell):
    async def telling(*what):
        said.append(what[-1])
        await tell(*what)

    return telling


async def test_a_stopped_session_goes_on_when_everybody_starts_again(autojump_clock):
    session = make(2, rounds=8)
    boss, *workers = nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    await run_and_stop(nodes, 2.5)
    again = [session.coordinator(boss.disk, boss.life.aggregator)]
    again += [session.worker(i, worker.disk) for i, worker in enumerate(workers, 1)]
    await run_all(again)
    assert [mix.round for mix in boss.disk.mixes] == list(range(1, 9))
    mixes = [mix.round for _, _, mix in workers[0].disk.records if mix]
    assert mixes == sorted(set(mixes))


async def test_snapshots_hold_the_model_the_result_and_what_everybody_did(autojump_clock):
    session = make(2)
    boss, *workers = nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    await run_all(nodes)
    assert sorted(boss.snapshots.added) == sorted(workers[0].snapshots.added) == [2, 4]
    assert set(boss.snapshots.added[2]) == {"update", "mixed.safetensors", "work.json", "moments"}
    assert b'"training_s"' in boss.snapshots.added[2]["work.json"]


class Supply:
    """Gives the data after a while, or never."""

    def __init__(self, wait_s):
        self.wait_s, self.asked = wait_s, []

    async def obtain(self, said):
        self.asked.append(said)
        await trio.sleep(self.wait_s)
        self.wait_s = 0.0  # now they are here
        return True


async def test_a_learner_trains_once_its_data_have_come_and_others_need_not_wait_for_it(autojump_clock):
    session = make(3, rounds=20)
    boss, *workers = nodes = [session.coordinator(), *(session.worker(i) for i in (1, 2, 3))]
    boss.life.data = "ab" * 32 + ":1000"
    supplies = [Supply(0.0), Supply(0.0), Supply(5.0)]
    for worker, supply in zip(workers, supplies, strict=True):
        worker.life.supply = supply
    with trio.fail_after(1000):
        await run_all(nodes)
    assert [mix.round for mix in boss.disk.mixes] == list(range(1, 21))
    assert supplies[0].asked[0] == Content(b"\xab" * 32, 1000)
    assert lags(boss.disk.mixes[0])[3] == ABSENT
    assert workers[2].life.trainee.trained
    assert lags(boss.disk.mixes[-1])[3] == 0


async def test_a_learner_that_waits_for_its_data_stops_when_told(autojump_clock):
    session = make(3, rounds=1000)
    boss, *workers = nodes = [session.coordinator(), *(session.worker(i) for i in (1, 2, 3))]
    workers[2].life.supply = Supply(10_000.0)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run)
            await trio.sleep(20)
            workers[2].life.stopping.set()
            await trio.sleep(2)
            assert not workers[2].life.ended, "it left, and the session goes on"
            boss.life.stopping.set()
    assert not workers[2].life.trainee.trained


async def test_a_learner_whose_data_never_come_ends_with_the_session(autojump_clock):
    session = make(3)
    boss, *workers = nodes = [session.coordinator(), *(session.worker(i) for i in (1, 2, 3))]
    workers[2].life.supply = Supply(10_000.0)
    with trio.fail_after(1000):
        await run_all(nodes)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]
    assert workers[2].life.ended
    assert workers[2].life.trainee.model == boss.life.aggregator.content
    assert not workers[2].life.trainee.trained


def lost_while_downloading(session, _workers):
    session.bus.slow["boss"] = 20.0


def lost_after_the_budget(_session, workers):
    for worker in workers:
        worker.life.trainee.affords = 1


def lost_after_a_bad_model(_session, workers):
    for worker in workers:
        worker.life.trainee.adopt = once(worker.life.trainee.adopt)


def lost_while_waiting_for_data(_session, workers):
    for worker in workers:
        worker.life.supply = Supply(1e6)


def lost_with_bad_data(_session, workers):
    for worker in workers:
        worker.life.supply = NoSupply()


def once(adopt):
    calls = itertools.count()

    async def adopting(payload, measure):
        if next(calls):
            raise UpdateError("not the shapes of this model")
        return await adopt(payload, measure)

    return adopting


class NoSupply:
    async def obtain(self, said):
        await trio.lowlevel.checkpoint()
        return False


@pytest.mark.parametrize(
    "arrange",
    [
        lambda *_: None,
        lost_while_downloading,
        lost_after_the_budget,
        lost_after_a_bad_model,
        lost_while_waiting_for_data,
        lost_with_bad_data,
    ],
)
async def test_a_worker_waits_for_a_lost_coordinator_as_long_as_it_says_whatever_it_does(autojump_clock, arrange):
    session = make(2, rounds=8, bound_s=1000.0)
    boss, *workers = session.coordinator(), session.worker(1), session.worker(2)
    arrange(session, workers)
    for worker in workers:
        worker.life.patience_s = 100.0
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(die_after, boss, 1.6)
            for worker in workers:
                nursery.start_soon(ends_alone, worker)


async def ends_alone(worker):
    began = trio.current_time()
    with pytest.raises(ExceptionGroup) as raised:
        await worker.run()
    assert raised.group_contains(NetworkError, match="no coordinator for 100 s")
    assert 100 < trio.current_time() - began < 110


async def die_after(boss, seconds):
    """Killed: it says no farewell."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boss.life.collector.run)
            nursery.start_soon(boss.life.push.run)
            await boss.life._rounds()
    boss.leave()


async def test_a_worker_that_trains_for_longer_than_its_patience_finishes_first(autojump_clock):
    session = make(2, rounds=8, quorum=1, balance=False, bound_s=1000.0)
    boss, worker = session.coordinator(), session.worker(1, step_s=300 / FULL)
    worker.life.patience_s = 100.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await die_after(boss, 2.0)
        await trio.sleep(350)
        assert worker.life.trainee.trained == [(1, FULL)]
        session.bus.offline.discard("boss")
        nursery.start_soon(session.coordinator(boss.disk, boss.life.aggregator).run)
        await trio.sleep(50)
        nursery.cancel_scope.cancel()
    assert [lags(mix) for mix in boss.disk.mixes] == [{0: 0, 1: 0, 2: ABSENT}]
