from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio

from node.messages import ABSENT, OTHERS, Announcement, Traffic
from node.session.deadline import AdaptiveDeadline
from node.session.gossip import traffic_of_round, traffic_since
from tests.session.fakes import FakePeers, make_member, make_session, sha256, with_rounds

NONE = Traffic(0, 0)
NAMES = ["alice", "bob", "carol"]


class Killed(Exception):
    """What ends a member at once."""


async def run_all(members):
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.run)


def outrun_by_the_others(members):
    """The last of the members takes over five rounds of the others to train."""
    *others, last = members
    for member in others:
        member.gossip.gatherer.deadline = AdaptiveDeadline(2.0)
    last.learner.train_s = 15.0
    return last


def killed_before_announcing(member, round):
    """The member ends when its record of the round is made, which carries the mix of the round before."""

    async def announced(announcement):
        if announcement.round == round:
            raise Killed

    member.disk.announced = announced


async def dies(member):
    """Runs it until it is killed; what killed it is gone from its disk then."""
    with pytest.raises(Killed):
        await member.run()
    for rigged in ("announced", "trained"):
        vars(member.disk).pop(rigged, None)


async def test_every_member_mixes_everybody_in_every_round(autojump_clock):
    _, members = make_session(NAMES)
    await run_all(members)
    for member in members:
        assert [mix.round for mix in member.disk.mixes] == [1, 2, 3, 4]
        for mix in member.disk.mixes:
            assert [entry.member for entry in mix.inputs] == [0, 1, 2]
            assert all(entry.lag == 0 for entry in mix.inputs)


async def test_the_mix_of_a_round_rides_with_the_commit_of_the_next(autojump_clock):
    _, members = make_session(NAMES)
    await run_all(members)
    rounds = [(round, mix.round if mix else None) for round, _, mix in members[0].disk.records]
    assert rounds == [(1, None), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert members[0].disk.records[-1][1] is None  # closing


async def test_a_member_that_is_gone_is_left_out_and_not_waited_for_long(autojump_clock):
    bus, members = make_session(NAMES)
    bus.offline.add("carol")
    before = trio.current_time()
    await run_all(members[:2])
    lags = {entry.member: entry.lag for entry in members[0].disk.mixes[-1].inputs}
    assert lags == {0: 0, 1: 0, 2: ABSENT}
    assert trio.current_time() - before < 4 * (1 + 3 + 1)


async def test_a_slow_peer_delays_nobody_beyond_the_adaptive_deadline(autojump_clock):
    _, members = make_session([*NAMES, "dave"], with_rounds(8))
    members[3].learner.train_s = 1000.0
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(members[3].run)
        await run_all(members[:3])
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 8 * 4 + 30  # the first deadline is the session's bound


async def test_who_is_ahead_of_everybody_waits_longer_and_does_not_mix_alone_for_ever(autojump_clock):
    _, (alice, bob) = make_session(NAMES[:2], with_rounds(40))

    def slow_down(event, round):
        if event == "training" and round == 5:
            bob.learner.train_s = 20.0

    bob.gossip.observe = slow_down
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.run)
        await alice.run()
        nursery.cancel_scope.cancel()
    lags = [{entry.member: entry.lag for entry in mix.inputs}[1] for mix in alice.disk.mixes]
    assert lags[:4] == [0, 0, 0, 0]
    alone = [at for at, lag in enumerate(lags) if lag == ABSENT]
    assert alone  # nobody could know that bob would take so long
    assert len(alone) <= 4
    assert max(alone) < 12
    assert alice.gossip.finished - bob.gossip.finished <= 3


async def test_a_member_that_the_others_outrun_leaves_rounds_out_and_is_mixed(autojump_clock):
    _, members = make_session(NAMES, with_rounds(60))
    alice, carol = members[0], outrun_by_the_others(members)
    await run_all(members)
    own = [round for round, digest, _ in carol.disk.records if digest]
    assert own[-1] == 60
    assert len(own) < 20
    assert [mix.round for mix in carol.disk.mixes] == own
    assert [mix.round for _, _, mix in carol.disk.records[1:]] == own  # each with the next record, whatever its round
    used = {mix.round - entry.lag for mix in alice.disk.mixes for entry in mix.inputs if entry.lag != ABSENT}
    late = {round for round in own[4:-1] if round not in used}
    assert len(late) <= 2, (own, used)
    theirs = [{entry.member: entry.lag for entry in mix.inputs} for mix in carol.disk.mixes[4:-1]]
    assert all(lags[0] != ABSENT and lags[1] != ABSENT for lags in theirs)


@pytest.mark.parametrize("again", [True, False])
async def test_a_promised_update_that_was_damaged_is_trained_again_or_its_round_is_left_out(autojump_clock, again):
    bus, members = make_session(NAMES, with_rounds(6))
    alice, round = members[0], 3

    killed_before_announcing(alice, round)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_all, members[1:])
        await dies(alice)
        promised = alice.disk.trained_updates[round].digest
        alice.disk.damaged.add(promised)
        revived = make_member(bus, NAMES, 0, with_rounds(6), disk=alice.disk)
        revived.learner.parameters = alice.learner.parameters if again else b"a codec that left something out"
        await revived.run()
    digests = {each: digest for each, digest, _ in revived.disk.records if digest}
    assert digests[round] == promised  # what was promised is what is recorded
    assert sorted(digests) == [1, 2, 3, 4, 5, 6]
    mixed = [mix.round for mix in revived.disk.mixes]
    assert (round in mixed) == again
    carried = [mix.round for _, _, mix in revived.disk.records if mix]
    assert carried == mixed  # each once


async def test_who_is_told_to_stop_before_it_goes_on_finishes_the_round_that_was_promised(autojump_clock):
    bus, members = make_session(NAMES, with_rounds(6))
    alice = members[0]

    killed_before_announcing(alice, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_all, members[1:])
        await dies(alice)
        revived = make_member(bus, NAMES, 0, with_rounds(6), disk=alice.disk)
        revived.learner.parameters = alice.learner.parameters
        revived.gossip.stopping.set()
        assert await revived.run() == 3
    carried = [(round, mix.round) for round, _, mix in revived.disk.records if mix]
    assert carried == [(2, 1), (3, 2), (4, 3)]


async def test_who_leaves_rounds_out_saves_a_snapshot_as_often_as_one_is_due(autojump_clock):
    _, members = make_session(NAMES, with_rounds(60))
    carol = outrun_by_the_others(members)
    carol.gossip.plan = replace(carol.gossip.plan, snapshot_every=7)
    await run_all(members)
    own, saved = [mix.round for mix in carol.disk.mixes], sorted(carol.snapshots.added)
    assert len(own) < 20
    due = {next(each for each in own if each // 7 == round // 7) for round in own if round >= 7}
    assert saved == sorted(due | {60})


async def test_an_update_that_takes_longer_than_a_round_to_come_is_mixed_later(autojump_clock):
    bus, members = make_session(NAMES, with_rounds(20))
    alice, bob, _ = members
    fetched = []

    def counted(member):
        fetch = member.gossip.ports.peers.fetch

        async def counts(announcement, holders, deadline):
            if announcement.peer_id == "carol":
                fetched.append((member.gossip.ports.peers.peer_id, announcement.round))
            return await fetch(announcement, holders, deadline)

        member.gossip.gatherer.peers.fetch = counts

    for member in (alice, bob):
        member.gossip.gatherer.deadline = AdaptiveDeadline(3.0)
        counted(member)
    bus.slow["carol"] = 8.0  # of a round of 6
    await run_all(members)
    lags = [{entry.member: entry.lag for entry in mix.inputs}[2] for mix in alice.disk.mixes]
    assert sum(lag in (1, 2) for lag in lags) >= 5, lags
    assert len(fetched) == len(set(fetched))  # no transfer began twice


async def test_after_a_crash_in_a_round_that_left_others_out_that_round_goes_on(autojump_clock):
    bus, members = make_session(NAMES, with_rounds(60))
    carol = outrun_by_the_others(members)
    kept = carol.disk.trained

    async def trained(round, update):
        await kept(round, update)
        if carol.disk.mixes and round > carol.disk.mixes[-1].round + 1:
            raise Killed
        return update

    carol.disk.trained = trained
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_all, members[:2])
        await dies(carol)
        promised = max(carol.disk.trained_updates)
        again = make_member(bus, NAMES, 2, with_rounds(60), disk=carol.disk)
        again.learner.parameters = carol.learner.parameters
        await again.run()
    recorded = [round for round, digest, _ in again.disk.records if digest]
    assert promised in recorded
    assert recorded == sorted(set(recorded))


async def test_an_update_that_is_late_and_not_too_old_is_mixed_although_it_was_never_in_time(autojump_clock):
    _, (alice, bob) = make_session(NAMES[:2], with_rounds(4))
    bob.learner.train_s = 12.0
    alice.gossip.gatherer.deadline = AdaptiveDeadline(8.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.run)
        await alice.run()
        nursery.cancel_scope.cancel()
    assert [{entry.member: entry.lag for entry in mix.inputs}[1] for mix in alice.disk.mixes] == [ABSENT, 1, 1, 1]


async def test_announcements_that_got_lost_are_asked_for(autojump_clock):
    bus, members = make_session(NAMES)
    bus.deaf = True
    before = trio.current_time()
    await run_all(members)
    assert all(entry.lag == 0 for member in members for mix in member.disk.mixes for entry in mix.inputs)
    assert trio.current_time() - before < 4 * 2
    assert set(bus.asked_since) == {0, 1, 2}  # of the rounds 2 to 4, with a staleness of 2


async def test_a_bad_payload_is_never_mixed(autojump_clock):
    _, members = make_session(NAMES)

    class Everything(set):
        def __contains__(self, payload):
            return payload.startswith(b"update 2 of 1")

    members[0].learner.poison = Everything()
    await run_all(members)
    lags = {mix.round: {entry.member: entry.lag for entry in mix.inputs} for mix in members[0].disk.mixes}
    assert lags[2][1] == 1  # the good one of round 1 was used instead
    assert lags[1][1] == 0


async def test_a_peer_that_cannot_serve_is_absent(autojump_clock):
    bus, members = make_session(NAMES, with_rounds(1))
    bus.corrupt.add("bob")
    await run_all(members)
    assert {entry.member: entry.lag for entry in members[0].disk.mixes[0].inputs} == {0: 0, 1: ABSENT, 2: 0}


async def test_after_a_crash_a_promised_update_is_revealed_and_not_trained_again(autojump_clock):
    bus, members = make_session(NAMES)
    alice = members[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_all, members[1:])
        with trio.move_on_after(2.5):  # in the middle of training or gathering some round
            await alice.run()
        promised = alice.disk.trained_updates.copy()
        again = make_member(bus, NAMES, 0, disk=alice.disk)
        again.learner.parameters = alice.learner.parameters
        await again.run()
    rounds = [round for round, digest, _ in alice.disk.records if digest is not None]
    assert rounds == [1, 2, 3, 4]
    assert all(alice.disk.trained_updates[round] == trained for round, trained in promised.items())


async def test_an_orderly_stop_finishes_the_round_and_records_its_mix(autojump_clock):
    _, members = make_session(NAMES, with_rounds(50))
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.run)
        await trio.sleep(5)
        for member in members:
            member.gossip.stopping.set()
    last_round, digest, mix = members[0].disk.records[-1]
    assert digest is None
    assert mix is not None
    assert mix.round == last_round - 1 < 50


async def test_a_stopped_member_that_starts_again_records_no_mix_twice(autojump_clock):
    bus, members = make_session(NAMES[:1])
    members[0].gossip.observe = lambda event, _value: event == "finished" and members[0].gossip.stopping.set()
    assert await members[0].run() == 1
    again = make_member(bus, NAMES[:1], 0, disk=members[0].disk)
    assert await again.run() == 4
    mixes = [mix.round for _, _, mix in again.disk.records if mix]
    assert mixes == [1, 2, 3, 4]


async def test_snapshots_are_taken_at_the_interval_and_at_the_end(autojump_clock):
    _, members = make_session(NAMES, with_rounds(5))
    await run_all(members)
    assert sorted(members[0].snapshots.added) == [2, 4, 5]
    assert [mix.snapshot for mix in members[0].disk.mixes] == [None, "cid-2", None, "cid-4", "cid-5"]


async def test_training_goes_on_without_ipfs(autojump_clock):
    _, members = make_session(NAMES)
    members[0].snapshots.broken = True
    await run_all(members)
    assert [mix.snapshot for mix in members[0].disk.mixes] == [None] * 4


async def test_a_member_with_two_faces_is_convicted_and_left_out(autojump_clock):
    bus, members = make_session(NAMES)
    mallory = FakePeers(bus, "carol")
    first = Announcement(7, 1, sha256(b"one"), 3, "float32", "carol", mallory.sign(b"one"))
    second = Announcement(7, 1, sha256(b"two"), 3, "float32", "carol", mallory.sign(b"two"))
    board = members[0].board
    assert board.post(first) is None
    assert board.post(first) is None
    proof = board.post(second)
    assert proof is not None
    assert (proof.member, proof.first, proof.second) == (2, first, second)
    assert board.newest(2) is None
    await run_all(members[:2])
    assert all(entry.lag == ABSENT for mix in members[0].disk.mixes for entry in mix.inputs if entry.member == 2)


@pytest.mark.parametrize(("ahead", "lag"), [(127, -127), (128, ABSENT), (1000, ABSENT)])
async def test_a_member_too_far_ahead_for_a_row_is_absent_and_harms_nobody(autojump_clock, ahead, lag):
    _, members = make_session(NAMES, with_rounds(1))
    payload = b"of the future"
    members[2].disk.payloads[sha256(payload)] = payload
    future = Announcement(7, 1 + ahead, sha256(payload), len(payload), "float32", "carol", b"signed")
    members[0].board.post(future)
    members[0].gossip.ports.peers.connected = lambda: frozenset({"bob"})  # carol is gone, and yet can be fetched from
    await run_all(members[:2])
    (mix,) = members[0].disk.mixes
    assert {entry.member: entry.lag for entry in mix.inputs} == {0: 0, 1: 0, 2: lag}
    assert [entry.weight > 0 for entry in mix.inputs] == [True, True, lag != ABSENT]


async def test_the_bytes_of_the_rounds_add_up_to_the_counter(autojump_clock, monkeypatch):
    """Every byte between the start of the first round and the end of the last is in exactly one of them."""
    readings = []

    def traffic(self):
        count = int(1000 * trio.current_time())  # a counter that never stands still
        if self.peer_id == "alice":
            readings.append(count)
        return {"bob": Traffic(count, 2 * count)}

    monkeypatch.setattr(FakePeers, "traffic", traffic)
    _, members = make_session(NAMES[:2])
    await run_all(members)
    spent = [report.traffic["bob"] for report in members[0].reports]
    assert len(spent) == 4
    assert sum(each.bytes_in for each in spent) == readings[-1] - readings[0] > 0
    assert sum(each.bytes_out for each in spent) == 2 * (readings[-1] - readings[0])


def test_the_bytes_of_those_who_are_no_members_are_one_entry():
    peers = SimpleNamespace(traffic=lambda: {"bob": Traffic(3, 4), "": Traffic(1, 1), "x": Traffic(5, 0), "y": NONE})
    directory = SimpleNamespace(index_of={"bob": 1}.get)
    assert traffic_of_round(peers, directory, {"x": Traffic(2, 0)}) == {"bob": Traffic(3, 4), OTHERS: Traffic(4, 1)}


def test_the_bytes_of_a_round_are_never_negative():
    before = {"alice": Traffic(1000, 2000), "bob": Traffic(5, 5)}
    after = {"alice": Traffic(10, 20), "bob": Traffic(7, 5), "carol": Traffic(1, 2)}
    assert traffic_since(before, after) == {
        "alice": Traffic(10, 20),
        "bob": Traffic(2, 0),
        "carol": Traffic(1, 2),
    }
