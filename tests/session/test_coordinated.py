import copy
import itertools

import pytest
import trio

from node.errors import NetworkError
from node.messages import ABSENT, Announcement, Content
from node.session.convergence import Goal
from node.session.notes import Work, encode
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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boss.run)
        nursery.start_soon(first.run)
        await trio.sleep(20)
        standing = boss.standings[-1]
        assert (standing.below_quorum, standing.arrived, standing.quorum) == (True, 1, 2)
        assert standing.left_s == pytest.approx(82, abs=1)
        assert not boss.disk.mixes
        nursery.start_soon(second.run)
    assert [mix.round for mix in boss.disk.mixes] == [1, 2, 3, 4]


async def test_a_coordinator_that_never_gets_its_quorum_gives_up_with_a_cure(autojump_clock):
    session = make(2, bound_s=5.0)
    boss, worker = session.coordinator(), session.worker(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        with pytest.raises(NetworkError, match="start more workers"):
            await boss.run()
        nursery.cancel_scope.cancel()


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


async def test_slow_workers_get_less_work_and_nobody_waits_for_them(autojump_clock):
    def session_of(slow, balance):
        session = make(8, rounds=10, balance=balance, quorum=8, bound_s=1000.0)
        return [session.coordinator(), *(session.worker(i, step_s=slow.get(i, 0.05)) for i in range(1, 9))]

    async def seconds(nodes):
        before = trio.current_time()
        await run_all(nodes)
        return trio.current_time() - before

    fast = await seconds(session_of({}, True))
    without = await seconds(session_of({7: 0.2, 8: 1.0}, False))
    nodes = session_of({7: 0.2, 8: 1.0}, True)
    nodes[0].life.plan = nodes[0].life.collector.plan = make(8, rounds=10).plan  # two of eight are a quorum
    balanced = await seconds(nodes)
    assert without > 10 * fast
    assert balanced < 1.3 * fast
    last = {timing.member: timing for timing in nodes[0].reports[-1].work}
    assert last[1].steps == FULL
    assert 4 <= last[7].steps <= 5
    assert last[8].steps == 1
    for this, following in itertools.pairwise(nodes[0].reports):
        told = {timing.member: timing for timing in this.work}
        for done in following.work:
            if done.round == following.round and done.member in told:
                assert done.steps == (told[done.member].next_steps or told[done.member].full) <= FULL
    late = next(timing for timing in nodes[0].reports[1].work if timing.member == 8)
    assert (late.round, late.next_steps) == (1, 1), "the share is there as soon as the speed was measured"


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


async def test_nobody_counts_for_more_than_it_was_asked_to_do(autojump_clock):
    session = make(2, rounds=2)
    nodes = [session.coordinator(), session.worker(1), session.worker(2)]
    honest = nodes[1].life.trainee.train

    async def boast(round, steps, stop):
        done = await honest(round, steps, stop)
        return type(done)(done.trained, done.work.model_copy(update={"examples": 10**9, "steps": 10**6}))

    nodes[1].life.trainee.train = boast
    await run_all(nodes)
    assert nodes[0].life.aggregator.counted[0] == {1: 10 * FULL, 2: 10 * FULL}


async def test_an_update_without_a_note_or_with_bad_numbers_is_refused(autojump_clock):
    session = make(3, rounds=2)
    boss, *workers = session.coordinator(), *(session.worker(i) for i in (1, 2, 3))
    boss.life.aggregator.poison = {b"update 1 of 3, 20 steps from start"}
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
