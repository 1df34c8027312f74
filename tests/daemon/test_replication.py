"""Replication of real embedded stores between members in one process; the ledger and the wires are fakes."""

import itertools
import logging

import pytest
import trio

from ledger import ChainUnreachable, RecordedMix
from node.daemon.ports import IpfsSnapshots
from node.daemon.presence import Presence
from node.daemon.replica_count import CopyCount
from node.daemon.replica_plan import Place, Registry
from node.daemon.replica_room import ReplicaRoom
from node.daemon.replication import FETCH_S, Replication, Standing, Tools
from node.errors import PeerError, StorageError
from node.session.placement import holders
from node.storage import Bounds, EmbeddedSnapshots, digest_of, parse_retention
from node.storage.copies import Copier

SESSION = 7
ROUNDS = 60
SIZE = 2000


class Directory:
    """Members 0 to n−1, whose peer ids are `peer-N`."""

    def __init__(self, count):
        self.removed, self._count = set(), count

    def count(self):
        return self._count

    def peer_of(self, index):
        return None if index in self.removed else f"peer-{index}"

    def index_of(self, peer_id):
        index = int(peer_id.removeprefix("peer-"))
        return None if index in self.removed else index


class World:
    """Members with stores, who reach each other unless they are `away`; and what the ledger says."""

    def __init__(self, place, clock, count=3, replicas=2, disk=None, policy=None, largest=None):
        self.largest = largest or {}  # bytes of a snapshot, by who takes no larger one
        self.directory, self.away, self.recorded, self.chain_is_down = Directory(count), set(), [], False
        self.clock = clock
        self.place, self.replicas, self.disk, self.policy = place, replicas, disk, policy
        self.members = [self.member(index) for index in range(count)]

    def member(self, index):
        place = Place(SESSION, index, self.replicas, ROUNDS, self.policy)

        async def fetch(cids):
            found = {}
            for other in self.reachable(index):
                store = self.members[other].tools.snapshots.blocks
                found |= {cid: block for cid in cids if (block := store.get(cid)) is not None}
            return found

        def connected():
            return frozenset(f"peer-{other}" for other in self.reachable(index))

        bounds = Bounds(snapshot=self.largest.get(index, 10_000), disk=self.disk)
        snapshots = EmbeddedSnapshots(self.place / str(index), fetch, bounds)
        room = ReplicaRoom(snapshots, place, self.disk, collect=True)
        tools = Tools(
            self.read,
            snapshots,
            Copier(snapshots, None, self.place, 10_000),
            room,
            Presence(self.directory, connected, index, patience_s=30),
            CopyCount(Asked(self, index), snapshots),
            largest=3000,
        )
        return Replication(tools, Registry(place), Standing(self.replicas))

    def reachable(self, index):
        return (
            [] if index in self.away else [each for each in range(len(self.members)) if each not in {index, *self.away}]
        )

    def read(self):
        if self.chain_is_down:
            raise ChainUnreachable("the chain is down")
        return list(self.recorded)

    async def record(self, member, round):
        """A snapshot that its owner keeps and the ledger names; its CID, None if the owner has no room for it."""
        replication = self.members[member]
        port = IpfsSnapshots(replication.tools.snapshots, SESSION, member, self.policy, True, replication.tools.room)
        content = bytes([member, round]) * (SIZE // 2)
        cid = await port.add(round, {"update": content})
        self.recorded.append(RecordedMix(member, round, None if cid is None else digest_of(cid)))
        return cid

    async def look(self, times=1, *among):
        for _ in range(times):
            self.clock.jump(4)  # who said no is asked again
            for index in among or range(len(self.members)):
                if index not in self.away:
                    await self.members[index].look()

    async def keepers(self, cid):
        return {
            index
            for index, member in enumerate(self.members)
            if cid in {pin.cid for pin in await member.tools.snapshots.pins()}
        }


class Asked:
    """The network of a member, as far as copies are counted."""

    def __init__(self, world, own):
        self.world, self.own, self.questions = world, own, 0

    async def has_blocks(self, peer_id, cids, seconds):
        self.questions += 1
        index = int(peer_id.removeprefix("peer-"))
        if index not in self.world.reachable(self.own):
            raise PeerError(f"{peer_id} is not connected")
        store = self.world.members[index].tools.snapshots.blocks
        return frozenset(cid for cid in cids if store.get(cid) is not None)


@pytest.fixture(autouse=True)
def clock(mock_clock):
    """Real time, that can leap: the autojump clock would take a busy thread for idle."""
    mock_clock.rate = 1.0
    return mock_clock


async def test_every_snapshot_gets_its_copies_and_everybody_knows(tmp_path, clock):
    world = World(tmp_path, clock)
    cids = {(member, round): await world.record(member, round) for round in (2, 4) for member in range(3)}
    await world.look(2)
    for (member, round), cid in cids.items():
        assert await world.keepers(cid) == set(holders(SESSION, member, round, range(3), 2))
    for member in world.members:
        seen = member.as_json()
        assert (seen["own"], seen["missing"], seen["under_replicated"], seen["damaged"]) == (2, 0, 0, 0)
        assert seen["own_bytes"] > 2 * SIZE
    assert sum(member.standing.replicas for member in world.members) == 6


async def test_copies_are_asked_for_once_and_then_believed_for_an_hour(tmp_path, clock):
    world = World(tmp_path, clock)
    await world.record(0, 2)
    await world.look(5)
    asked = world.members[0].tools.count.peers
    assert asked.questions <= 2
    clock.jump(3700)
    await world.look()
    assert asked.questions <= 3


async def test_a_snapshot_whose_blocks_cannot_be_listed_here_holds_up_no_other(tmp_path, clock, monkeypatch):
    world = World(tmp_path, clock)
    broken, sound = await world.record(0, 2), await world.record(0, 1)
    store = world.members[0].tools.snapshots
    listed = store.block_cids

    async def list_but_one(cid):
        if cid == broken:
            raise StorageError("its row is damaged")
        return await listed(cid)

    monkeypatch.setattr(store, "block_cids", list_but_one)
    await world.look(5)
    count = world.members[0].tools.count
    assert [any(count.has(cid, member) for member in (1, 2)) for cid in (broken, sound)] == [False, True]


async def test_of_a_snapshot_that_is_too_large_nothing_stays(tmp_path, clock):
    world = World(tmp_path, clock, largest={1: SIZE // 2, 2: SIZE // 2})
    cid = await world.record(0, 2)
    (asked,) = set(holders(SESSION, 0, 2, range(3), 2)) - {0}
    await world.look()
    assert "is larger than" in world.members[asked].standing.last_error
    assert await world.keepers(cid) == {0}
    assert not world.members[asked].tools.snapshots.blocks.any()


async def test_when_a_holder_is_away_for_long_the_next_in_line_takes_over(tmp_path, clock):
    world = World(tmp_path, clock, count=4)
    cid = await world.record(0, 2)
    await world.look(2)
    (lost,) = await world.keepers(cid) - {0}
    world.away = {lost}
    clock.jump(20)
    await world.look(2)
    assert await world.keepers(cid) == {0, lost}  # it may come back
    clock.jump(20)
    await world.look(1)
    await world.look(1)
    assert len(await world.keepers(cid) - {lost}) == 2
    assert world.members[0].standing.under_replicated == 0


async def test_when_the_owner_is_removed_the_others_keep_as_many_copies(tmp_path, clock):
    world = World(tmp_path, clock, count=4)
    cid = await world.record(0, 2)
    await world.look(2)
    world.directory.removed = {0}
    world.away = {0}
    await world.look(2)
    assert len(await world.keepers(cid) - {0}) == 2
    assert sum(len(member.plan.led) for member in world.members[1:]) == 1


async def test_a_snapshot_that_nobody_has_is_tried_ever_more_rarely_and_told(tmp_path, clock):
    world = World(tmp_path, clock)
    cid = await world.record(0, 2)
    (holder,) = set(holders(SESSION, 0, 2, range(3), 2)) - {0}
    await world.members[0].tools.snapshots.unpin(cid)
    await world.members[0].tools.snapshots.gc()
    tried = []
    for _ in range(150):
        await world.look(1, holder)
        if (tries := world.members[holder]._tries.get(cid)) and tries[0] > len(tried):
            tried.append(trio.current_time())
        clock.jump(8)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert [round(pause) for pause in pauses] == sorted(round(pause) for pause in pauses)
    assert 5 <= len(tried) <= 12
    standing = world.members[holder].standing
    assert standing.missing == 1
    assert "member 0, round 2 is not kept here" in standing.last_error


@pytest.mark.parametrize("ends", ["never", "in the end"])
async def test_who_takes_long_to_fetch_from_holds_up_nobody_elses_snapshots(tmp_path, clock, monkeypatch, ends):
    world = World(tmp_path, clock, replicas=3)
    slow = {await world.record(2, round) for round in range(40, 60)}
    honest = [await world.record(1, round) for round in range(1, 6)]
    keep = Copier.keep

    async def keep_in_time(copier, cid, label):
        if cid in slow:
            clock.jump(FETCH_S + 1 if ends == "never" else FETCH_S - 1)
            await trio.lowlevel.checkpoint()
        await keep(copier, cid, label)

    monkeypatch.setattr(Copier, "keep", keep_in_time)
    await world.look(2, 0)
    assert [0 in await world.keepers(cid) for cid in honest] == [True] * 5
    late = await world.record(1, 6)
    await world.look(1, 0)
    assert 0 in await world.keepers(late)


async def test_an_owner_that_lost_its_store_gets_its_snapshots_back(tmp_path, clock):
    world = World(tmp_path, clock)
    cid = await world.record(0, 2)
    await world.look(2)
    await world.members[0].tools.snapshots.unpin(cid)
    await world.members[0].tools.snapshots.gc()
    await world.look(1)
    assert 0 in await world.keepers(cid)
    assert await world.members[0].tools.snapshots.read(cid, "update", SIZE)


async def test_a_damaged_block_is_found_and_mended_from_a_copy(tmp_path, clock, caplog):
    world = World(tmp_path, clock)
    cid = await world.record(0, 2)
    await world.look(2)
    store = world.members[0].tools.snapshots
    path = next(path for _, path in store.blocks.files() if path.stat().st_size >= SIZE)
    path.write_bytes(b"rot" * 100)
    clock.jump(3700)
    with caplog.at_level(logging.WARNING):
        await world.look(1, 0)
    assert f"snapshot {cid} was damaged on disk, and is whole again" in caplog.text
    assert await store.damaged() == []
    assert world.members[0].standing.damaged == 0


async def test_damage_that_nobody_can_mend_is_told(tmp_path, clock):
    world = World(tmp_path, clock, replicas=1)
    await world.record(0, 2)
    store = world.members[0].tools.snapshots
    next(path for _, path in store.blocks.files() if path.stat().st_size >= SIZE).unlink()
    await world.look(1)
    assert world.members[0].standing.damaged == 1


async def test_where_the_disk_is_short_own_snapshots_go_before_replicas(tmp_path, clock):
    world = World(tmp_path, clock, count=2, disk=7 * SIZE)
    theirs = [await world.record(1, round) for round in (1, 2, 3)]
    await world.look(2)
    kept = world.members[0].standing
    assert (kept.own, kept.replicas) == (0, 3)
    for round in range(4, 8):
        assert await world.record(0, round) is not None
    await world.look(1, 0)
    kept = world.members[0].standing
    assert kept.own == 4
    assert 0 < kept.missing == 3 - kept.replicas
    assert "there is no room for it" in kept.last_error
    assert theirs[0] not in {pin.cid for pin in await world.members[0].tools.snapshots.pins()}  # the oldest went first
    assert await world.members[0].tools.snapshots.size() <= 7 * SIZE


async def test_replicas_follow_the_operators_policy_and_are_not_fetched_again(tmp_path, clock):
    world = World(tmp_path, clock, count=2, policy=parse_retention("last:2"))
    for round in range(1, 6):
        await world.record(0, round)
        await world.look(1)
    held = {pin.label.round for pin in await world.members[1].tools.snapshots.pins()}
    assert {4, 5} <= held
    assert world.members[1].standing.missing == 0
    assert world.members[0].standing.own == 2


async def test_without_a_chain_what_is_known_is_looked_after(tmp_path, clock):
    world = World(tmp_path, clock)
    cid = await world.record(0, 2)
    await world.look(1, 0)
    world.chain_is_down = True
    await world.look(2)
    assert await world.keepers(cid) == {0}  # nobody else has heard of it
    world.chain_is_down = False
    await world.look(1)
    world.chain_is_down = True
    await world.look(1)
    assert len(await world.keepers(cid)) == 2


async def test_a_node_that_leaves_waits_for_the_copies_of_its_last_snapshot_and_not_for_ever(tmp_path, clock):
    world = World(tmp_path, clock)
    for member in range(3):
        await world.record(member, 5)
    async with trio.open_nursery() as nursery:
        for member in world.members:
            nursery.start_soon(member.run)
        assert [await member.settle(20, 5) for member in world.members] == [True, True, True]
        began = trio.current_time()
        assert await world.members[0].settle(1, 6) is False  # nobody has recorded round 6
        assert trio.current_time() - began >= 1
        world.chain_is_down = True
        began = trio.current_time()
        assert await world.members[0].settle(1000, 6) is False  # soon
        assert trio.current_time() - began < 20
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_alone_does_not_wait(tmp_path, clock):
    world = World(tmp_path, clock)
    await world.record(0, 5)
    world.away = {1, 2}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.members[0].run)
        assert await world.members[0].settle(20, 5) is True
        nursery.cancel_scope.cancel()
