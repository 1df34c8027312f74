"""A payload whose announcer breaks off comes from another member that has it, from the byte where it stopped."""

import hashlib

import pytest
import trio

from node.daemon.journal import Journal
from node.daemon.ports import Announced, NetworkPeers
from node.network.service import open_network
from node.network.serving import ExchangeServer
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from tests.network.members import SESSION, Shelf, identity, meet, member, settings, until
from tests.session.fakes import FakeDirectory, FakeLearner

pytestmark = pytest.mark.real

ALICE, BOB, CAROL = (identity(name) for name in ("alice", "bob", "carol"))
PAYLOAD = hashlib.shake_256(b"an update").digest(24 << 20)


def gatherer(network, who, announcement, index, held):
    """The gathering of a member that has seen one announcement."""
    directory = FakeDirectory([ALICE.peer_id, BOB.peer_id, CAROL.peer_id], index)
    board = Board(SESSION, directory, window=4)
    board.post(announcement)
    made = Gatherer(NetworkPeers(network, who), directory, board, FakeLearner(index), 2, AdaptiveDeadline(30.0))
    made.holding = held
    return made


@pytest.mark.parametrize("poisoned", [False, True], ids=["accepted", "refused"])
async def test_who_accepted_an_update_has_it_for_others_until_the_next(poisoned):
    shelf, held = Shelf(ALICE), {}
    first, second = shelf.put(b"first", 1), shelf.put(b"second", 2)
    async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        gathering = gatherer(bob, BOB, first, 1, held)
        gathering.learner.poison = {b"first"} if poisoned else set()
        await gathering.gather(1, [0])
        assert held == ({} if poisoned else {first.digest: b"first"})
        gathering.board.post(second)
        await gathering.gather(2, [0])
        assert held == {second.digest: b"second"}


async def test_a_transfer_that_breaks_off_goes_on_at_another_holder(monkeypatch, nursery, tmp_path):
    shelf, held = Shelf(ALICE), {}
    announcement = shelf.put(PAYLOAD, 1)
    asked: list[tuple[str, int]] = []  # who was asked, from which byte
    reached = trio.Event()
    send_bytes, send_chunk = ExchangeServer._send_bytes, ExchangeServer._chunk

    async def seen(self, frames, payload, offset):
        own = "alice" if self.payloads is shelf else "bob"
        asked.append((own, offset))
        return await send_bytes(self, frames, payload, offset)

    async def stuck(self, frames, data):
        """Alice sends some chunks to carol, and then no more."""
        if self.payloads is shelf and frames.peer_id == CAROL.peer_id and len(asked) > 1:
            asked.append(("chunk", len(data)))
            if len(asked) > 8:
                reached.set()
                await trio.sleep_forever()
        await send_chunk(self, frames, data)

    monkeypatch.setattr(ExchangeServer, "_send_bytes", seen)
    monkeypatch.setattr(ExchangeServer, "_chunk", stuck)
    others = Announced(Journal(tmp_path, keep=3), None, held)
    ended, alice_runs = trio.Event(), trio.CancelScope()
    opened = open_network(BOB, settings(), lambda _peer: True, others, lambda _since: [])
    async with opened as bob:

        async def run_alice(task_status):
            with alice_runs:
                async with member("alice", bob.addresses(), shelf=shelf) as alice:
                    task_status.started(alice)
                    await trio.sleep_forever()
            ended.set()

        alice = await nursery.start(run_alice)
        async with member("carol", bob.addresses()) as carol:
            await meet(alice, bob, carol)
            (whole,) = await gatherer(bob, BOB, announcement, 1, held).gather(1, [0])
            assert held == {announcement.digest: PAYLOAD}
            assert whole.payload == PAYLOAD
            result = []

            async def gather():
                result.extend(await gatherer(carol, CAROL, announcement, 2, {}).gather(1, [0]))

            nursery.start_soon(gather)
            with trio.fail_after(20):
                await reached.wait()
                alice_runs.cancel()
                await ended.wait()
            await until(lambda: bool(result), 25)
            assert [one.payload for one in result] == [PAYLOAD]
    assert [each for each in asked if each[0] != "chunk"][:2] == [("alice", 0), ("alice", 0)]
    from_bob = [offset for who, offset in asked if who == "bob"]
    assert len(from_bob) == 1
    assert 1 << 20 < from_bob[0] < len(PAYLOAD)
    assert carol.traffic()[BOB.peer_id].bytes_in < len(PAYLOAD)
