"""A worker's rounds (docs/architecture.md): take over the coordinator's newest model, train, commit, announce.

It waits for announcements and asks for none, trains while it serves, and leaves off when a newer model is there.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import trio

from node.backoff import pauses
from node.errors import PeerError, UpdateError
from node.messages import Announcement, Mix, Traffic
from node.session.board import Board
from node.session.coordinated import (
    CoordinatedPlan,
    CoordinatedPorts,
    Election,
    Supply,
    Trainee,
    adoption_row,
    discard,
    signed,
)
from node.session.following import Following
from node.session.gossip import RoundReport, traffic_of_round
from node.session.notes import Orders, encode, read_orders
from node.session.ports import Payload, Trained
from node.session.push import Push
from node.session.succession import Term

log = logging.getLogger(__name__)

Observe = Callable[[str, RoundReport | int], None]


@dataclass(frozen=True, slots=True)
class _Sent:
    """The update that was sent last, until a newer model comes."""

    round: int
    trained: Trained
    train_s: float = 0.0
    commit_s: float = 0.0


@dataclass
class Worker:
    """The life of one worker in one session; `run` is the whole of it."""

    plan: CoordinatedPlan
    ports: CoordinatedPorts
    trainee: Trainee
    board: Board
    coordinator: Callable[[], int | None]  # the coordinator's index, once the ledger has it
    patience_s: float  # without a coordinator
    push: Push
    chance: random.Random
    observe: Observe = lambda _event, _value: None
    supply: Supply | None = None  # of a session that serves its data
    election: Election | None = None  # of a session that elects the next coordinator
    stopping: trio.Event = field(default_factory=trio.Event)
    finished: int = 0  # the last round that is over
    ended: str = ""  # why there is no further round
    elected: bool = False  # this member coordinates from now on
    _vacancy: Term | None = None  # the coordinator that is gone, when it is this member's turn
    _pending: Mix | None = None
    _sent: _Sent | None = None
    _begun: int = 0  # the round whose model was given out to train from, not as the last one
    _held: dict[bytes, Payload] = field(default_factory=dict)  # models by their hash, the newest last
    _before: Mapping[str, Traffic] = field(default_factory=dict)

    async def run(self) -> int:
        """Takes part until the coordinator says the end, or is gone and this member takes its place (`elected`).

        Returns the last finished round.
        """
        await self._resume()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.push.run)
            while not await self._is_over():
                pass
            nursery.cancel_scope.cancel()
        return self.finished

    async def _is_over(self) -> bool:
        """After the rounds of one coordinator, or a try to follow it."""
        async with trio.open_nursery() as nursery:
            if self.election is not None:
                nursery.start_soon(self._look_after_the_coordinator, self.election)
            await self._rounds()
            nursery.cancel_scope.cancel()
        if self._vacancy is None or self.election is None or self.stopping.is_set() or self.ended:
            return True
        vacancy, self._vacancy = self._vacancy, None
        self.observe("taking over from the coordinator", vacancy.newest)
        outcome = await self.election.take_over(vacancy, self._held.get(vacancy.digest), self._pending)
        if outcome is not None:  # our record of the next round is made, whoever coordinates it
            self._pending, self._sent, self.finished, self.elected = None, None, vacancy.newest, outcome
            self._following.alone = None  # there is another coordinator
            if not outcome:
                self.finished = vacancy.newest + 1
        return self.elected

    async def _look_after_the_coordinator(self, election: Election) -> None:
        self._vacancy = await self._following.vacancy(election)

    @cached_property
    def _following(self) -> Following:
        return Following(self.ports, self.board, self.coordinator, self.patience_s, self.election, self._leaves)

    def _leaves(self) -> bool:
        """Whether what is being done is to be left off."""
        gone = self._vacancy is not None or bool(self._following.called_off(self._begun))
        return self.stopping.is_set() or gone

    async def _rounds(self) -> None:
        while not self._leaves():
            self.observe("waiting for the next model", self._last_round())
            announcement = await self._following.next_model(self._last_round())
            if announcement is None:
                break
            await self._follow(announcement)
            if self.ended:
                break
        self.ended = self.ended or self._following.called_off(self._begun)  # a round that stays open
        if self._pending is not None and self._vacancy is None:
            await self.ports.records.close(self._pending.round + 1, self._pending)
            await self.ports.journal.closed()

    async def _resume(self) -> None:
        """After a restart: an update that was promised is announced again, as it was."""
        progress = await self.ports.journal.load()
        self._pending, self.finished = progress.pending_mix, progress.next_round - 1
        newest = await self.ports.journal.newest()
        if newest is None or newest[0] <= self.finished:
            return
        round, trained = newest
        self._sent, self._begun = _Sent(round, trained), round
        await self.ports.records.commit(round, trained.digest, self._pending)
        said = await self.ports.journal.announcement(round)
        if said is None:  # it was killed in between
            if note := await self.ports.journal.note(round):
                await self._reveal(round, trained, note)
        elif said.digest == trained.digest:
            self.push.say(said)
            await self.ports.peers.announce(said)

    async def _reveal(self, round: int, trained: Trained, note: bytes) -> None:
        said = signed(self.plan, self.ports.peers, round, trained, self.plan.codec, note)
        await self.ports.journal.announced(said)
        self.push.say(said)
        await self.ports.peers.announce(said)

    def _last_round(self) -> int:
        return self._sent.round if self._sent else self.finished

    async def _follow(self, announcement: Announcement) -> None:
        """One model: take it over, and train from it unless it is the last."""
        try:
            orders = read_orders(announcement.note)
        except PeerError as error:
            log.warning("the coordinator's note of round %d: %s", announcement.round, error)
            orders = Orders()
        if not orders.end:
            self._begun = announcement.round
        supplied = await self._supplied(announcement, orders)
        self.observe("downloading the model", announcement.round)
        begun = trio.current_time()
        payload = await self._download(announcement)
        if payload is None:
            return
        download_s = trio.current_time() - begun
        if not orders.end:  # that one has no record
            self.observe("waiting for the model's record", announcement.round)
            if not await self._following.is_recorded(announcement):
                return
        metrics = await self._adopt(announcement, payload, bool(orders.end))
        if metrics is None:
            return
        if self._sent is not None:
            await self._mix(self._sent, announcement, payload, metrics)
        if orders.end:
            self.ended = orders.end
            return
        if supplied:
            await self._train(announcement.round, orders, download_s)
        else:
            self.observe("following without data", announcement.round)
            await self._following.until_superseded(announcement.round)

    async def _supplied(self, announcement: Announcement, orders: Orders) -> bool:
        """Whether there are data to train on; served ones are waited for until the session's end."""
        if self.supply is None or orders.end:
            return True
        self.observe("receiving data", announcement.round)
        supplied = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._following.until_over, nursery.cancel_scope.cancel)
            supplied = await self.supply.obtain(orders.manifest())
            nursery.cancel_scope.cancel()
        return supplied

    async def _download(self, announcement: Announcement) -> Payload | None:
        """The model's bytes, verified; None when a newer model is there, or we are to stop."""
        payload = self._held.get(announcement.digest)
        if payload is None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._following.until_superseded, announcement.round, nursery.cancel_scope.cancel)
                payload = await self._fetch(announcement)
                nursery.cancel_scope.cancel()
        if payload is not None:
            self._hold(announcement.digest, payload)
        return payload

    def _hold(self, digest: bytes, payload: Payload) -> None:
        """Keeps a model until the next one; in a session with elections, where that may never be recorded, for longer.

        A coordinator announces no model before the record of the one before is confirmed: the ledger's is one of two.
        """
        self._held.pop(digest, None)
        self._held[digest] = payload
        while len(self._held) > (1 if self.election is None else 2):
            discard(self._held.pop(next(iter(self._held))))

    async def _fetch(self, announcement: Announcement) -> Payload:
        tries = pauses(self.chance)
        while True:
            try:
                return await self.ports.peers.fetch(announcement, [announcement.peer_id], self.patience_s)
            except PeerError as error:
                log.info("model of round %d: %s", announcement.round, error)
            await trio.sleep(next(tries))

    async def _adopt(self, announcement: Announcement, payload: Payload, last: bool) -> Mapping[str, float] | None:
        try:
            return await self.trainee.adopt(payload, last)
        except UpdateError as error:
            log.warning("the coordinator's model of round %d is not taken over: %s", announcement.round, error)
            await self._following.until_superseded(announcement.round)
            return None

    async def _mix(self, sent: _Sent, model: Announcement, payload: Payload, metrics: Mapping[str, float]) -> None:
        """The round of the last update is over: what we go on from now is the coordinator's model."""
        coordinator = self.coordinator()
        assert coordinator is not None
        own = self.ports.directory.own_index
        row = adoption_row(own, coordinator, sent.round, model.round)
        self._sent, self.finished = None, sent.round
        if row is None:
            log.warning(
                "round %d has no recorded mix: the model that came next is of round %d", sent.round, model.round
            )
            return
        snapshot = await self._snapshot(sent, payload)
        self._pending = Mix(
            sent.round, self.ports.directory.count(), row, model.digest, snapshot, self.trainee.epsilon()
        )
        await self.ports.journal.mixed(self._pending)
        traffic = traffic_of_round(self.ports.peers, self.ports.directory, self._before)
        seen = {**sent.trained.metrics, **metrics}
        report = RoundReport(sent.round, row, seen, traffic, sent.train_s, sent.commit_s, 0.0, 0.0, snapshot)
        self.observe("finished", report)

    async def _snapshot(self, sent: _Sent, model: Payload) -> str | None:
        if not self.plan.takes_snapshot(sent.round):
            return None
        self.observe("saving a snapshot", sent.round)
        files = {"update": sent.trained.payload, "mixed.safetensors": model}
        return await self.ports.snapshots.add(sent.round, files)

    async def _train(self, round: int, orders: Orders, download_s: float) -> None:
        self.observe("training", round)
        self._before = dict(self.ports.peers.traffic())
        begun = trio.current_time()
        own = self.ports.directory.own_index
        newer = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._following.interrupt, round, newer.set)
            done = await self.trainee.train(round, orders.steps_of(own), newer.is_set)
            nursery.cancel_scope.cancel()
        if done is None:
            self.observe("following without training", round)
            await self._following.until_superseded(round)
            return
        trained_at = trio.current_time()
        late = self._following.is_superseded(round)
        if self._leaves() or (late and not self.plan.staleness):
            discard(done.trained.payload)
            return
        note = encode(done.work.model_copy(update={"download_s": download_s}))
        trained = await self.ports.journal.trained(round, done.trained, note)
        await self.ports.records.commit(round, trained.digest, self._pending)
        self._pending = None
        await self._reveal(round, trained, note)
        self._sent = _Sent(round, trained, trained_at - begun, trio.current_time() - trained_at)
