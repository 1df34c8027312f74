"""The coordinator's rounds (docs/architecture.md): commit to the model, announce it, collect, average, record.

Everything that is promised is on disk before it is said, as in gossip; a restart goes on with the round in flight.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import orjson
import trio

from node.errors import NodeError, SessionOver
from node.messages import ABSENT, NOTE_LIMIT, Announcement, Input, Mix
from node.session.balance import Timing
from node.session.collect import Collector, Delivery, Standing
from node.session.convergence import Goal, why_end
from node.session.coordinated import (
    MODEL_CODEC,
    Aggregated,
    Aggregator,
    CoordinatedPlan,
    CoordinatedPorts,
    discard,
    signed,
)
from node.session.gossip import RoundReport, traffic_of_round
from node.session.notes import Orders, encode, read_orders
from node.session.ports import Trained
from node.session.push import Push

log = logging.getLogger(__name__)
FAREWELL_S = 5.0  # to say the end when a node has to go at once
REASON_LIMIT = 200  # characters
FINISHED = "the last round is over"
STOPPED = "the coordinator was stopped"

Observe = Callable[[str, RoundReport | int], None]


@dataclass
class Coordinator:
    """The life of the coordinator in one session; `run` is the whole of it."""

    plan: CoordinatedPlan
    ports: CoordinatedPorts
    aggregator: Aggregator
    collector: Collector
    push: Push
    goal: Goal = field(default_factory=Goal)
    observe: Observe = lambda _event, _value: None
    watch: Callable[[Standing], None] = lambda _standing: None
    require_office: Callable[[], Awaitable[None]] | None = None  # NetworkError where another one coordinates by now
    data: str = ""  # the manifest of served data, for the notes
    linger_s: float = 120.0  # to give everybody the last model
    stopping: trio.Event = field(default_factory=trio.Event)
    finished: int = 0  # the last round that is over
    ended: str = ""  # why there is no further round
    shares: tuple[int, ...] = ()  # of the next round: steps by member, fixed when the round before closes
    _given: tuple[int, Trained] | None = None  # the newest model that was announced to train from
    _is_too_long: bool = False  # the shares did not fit into a note, which was said

    async def run(self) -> int:
        """Goes through the rounds that are left, and tells everybody the end; returns the last finished round."""
        failure: NodeError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.collector.run)
            nursery.start_soon(self.push.run)
            try:
                await self._rounds()
            except SessionOver as error:
                failure, self.ended = error, str(error)
                with trio.move_on_after(self.linger_s):
                    await self._end_in_flight(self.ended)
                    await self._farewell()
            except NodeError as error:  # nothing is announced: who starts the coordinator again goes on
                failure = error  # raised below, since a nursery would wrap it
            except trio.Cancelled:
                with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL_S):
                    await self._call_off()
                    await self._farewell()
                raise
            if failure is None:
                with trio.move_on_after(self.linger_s):
                    await self._farewell()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self.finished

    async def _rounds(self) -> None:
        progress = await self.ports.journal.load()
        pending, round = progress.pending_mix, progress.next_round
        self.finished = round - 1
        self.ended = why_end(self.goal, self.aggregator.history())
        while round <= self.plan.rounds and not self.ended and not self.stopping.is_set():
            pending = await self._round(round, pending)
            self.finished, round = round, round + 1
            self.ended = why_end(self.goal, self.aggregator.history())
        if pending is not None:
            await self._hold_office()
            await self.ports.records.close(round, pending)
            await self.ports.journal.closed()
        self.ended = self.ended or (FINISHED if round > self.plan.rounds else STOPPED)
        last = await self.ports.journal.trained(round, await self.aggregator.model())
        await self._announce_end(round, last, self.ended, keep=True)

    async def _round(self, round: int, pending: Mix | None) -> Mix:
        started = trio.current_time()
        before = dict(self.ports.peers.traffic())
        await self._hold_office()
        model = await self.ports.journal.trained(round, await self.aggregator.model())
        await self.ports.records.commit(round, model.digest, pending)
        committed_at = trio.current_time()
        orders = await self._announce(round, model)
        self.observe("collecting updates", round)
        self.collector.begin(round, orders, self.aggregator.used())
        deliveries = await self.collector.collect(self.watch, self.stopping)
        collected_at = trio.current_time()
        self.observe("averaging", round)
        result = await self.aggregator.aggregate(round, [delivery.counted for delivery in deliveries])
        self.shares = self.collector.balance.steps(range(self.ports.directory.count()), round + 1)
        timings = tuple(with_share(delivery.timing, self.shares) for delivery in deliveries)
        snapshot = await self._snapshot(round, model, result, timings)
        discard(result.payload)
        members = max(self.ports.directory.count(), 1 + max(entry.member for entry in result.inputs))
        mix = Mix(round, members, full_row(members, result.inputs), result.digest, snapshot)
        await self.ports.journal.mixed(mix)
        report = RoundReport(
            round,
            mix.inputs,
            {**trip_seconds(deliveries), **result.metrics},
            traffic_of_round(self.ports.peers, self.ports.directory, before),
            0.0,
            committed_at - started,
            collected_at - committed_at,
            trio.current_time() - collected_at,
            snapshot,
            timings,
        )
        self.observe("finished", report)
        return mix

    async def _hold_office(self) -> None:
        """Before every record: two may not coordinate one round."""
        if self.require_office is not None:
            self.observe("making sure that nobody took over", self.finished)
            await self.require_office()

    async def _announce(self, round: int, model: Trained) -> Orders:
        """Pushes the model's announcement to everybody; after a restart with the orders that were given before."""
        said = await self.ports.journal.announcement(round)
        if said is None or said.digest != model.digest or read_orders(said.note).end:
            orders = self._orders()
            said = signed(self.plan, self.ports.peers, round, model, MODEL_CODEC, encode(orders))
            await self.ports.journal.announced(said)
        self._given = round, model
        self.push.say(said)
        await self.ports.peers.announce(said)
        return read_orders(said.note)

    def _orders(self) -> Orders:
        """What is asked of everybody in the next round."""
        orders = Orders(steps=self.shares, others=self.collector.balance.first_steps, data=self.data)
        fitting = orders.fitting()
        if fitting != orders and not self._is_too_long:
            self._is_too_long = True
            log.warning(
                "the steps asked of %d members take more than a note's %d bytes: the work is not balanced, everybody "
                "trains full rounds",
                len(self.shares),
                NOTE_LIMIT,
            )
        return fitting

    async def _announce_end(self, round: int, model: Trained, why: str, keep: bool) -> Announcement:
        """Tells everybody the last model and that it is the last; `keep`: also those who come later."""
        said = signed(self.plan, self.ports.peers, round, model, MODEL_CODEC, encode(Orders(end=why)))
        if keep:
            await self.ports.journal.announced(said)
        self.push.say(said)
        await self.ports.peers.announce(said)
        return said

    async def _call_off(self) -> None:
        """Tells everybody that this node has to go, in a second note on the newest model: its round stays open.

        Another model is not announced: who starts the coordinator again goes on with that round.
        """
        if self._given is not None:
            await self.push.once(await self._announce_end(*self._given, STOPPED, keep=False))

    async def _end_in_flight(self, why: str) -> None:
        """Ends the session in a round that will not close: the model that it began with is the last."""
        found = await self.ports.journal.newest()
        if found is not None:
            await self._announce_end(found[0] + 1, found[1], why[:REASON_LIMIT], keep=False)

    async def _snapshot(
        self, round: int, model: Trained, result: Aggregated, timings: tuple[Timing, ...]
    ) -> str | None:
        if not self.plan.takes_snapshot(round):
            return None
        self.observe("saving a snapshot", round)
        files = {"update": model.payload, "mixed.safetensors": result.payload, "work.json": orjson.dumps(timings)}
        kept = await self.ports.snapshots.add(round, {**files, **result.files})
        for each in result.files.values():
            discard(each)
        return kept

    async def _farewell(self) -> None:
        """Returns when no worker is connected any more: each leaves once it has the last model."""
        self.observe("serving the others", self.finished)
        own = self.ports.directory.own_index
        while any(self.ports.directory.index_of(peer) not in (None, own) for peer in self.ports.peers.connected()):
            await trio.sleep(0.1)


def full_row(members: int, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """The row with every member in it, ascending; those that nothing came from are absent."""
    there = {entry.member: entry for entry in inputs}
    return tuple(there.get(member, Input(member, 0, ABSENT)) for member in range(members))


def with_share(timing: Timing, shares: tuple[int, ...]) -> Timing:
    """A worker's round trip with what it will be asked for next."""
    return replace(timing, next_steps=shares[timing.member] if timing.member < len(shares) else 0)


def trip_seconds(deliveries: list[Delivery]) -> dict[str, float]:
    """Seconds of the slowest and of the fastest round trip, for the report; nothing without a fresh update."""
    trips = [one.timing.round_trip_s for one in deliveries if one.timing.round_trip_s]
    return {"fastest_trip_s": min(trips), "slowest_trip_s": max(trips)} if trips else {}
