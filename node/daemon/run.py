"""A node's whole life: check everything, open the parts, go through the rounds, flush, end."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import torch
import trio

from node.daemon.directory import keep_fresh
from node.daemon.memory import keep_trimming
from node.daemon.metrics import node_metrics
from node.daemon.opening import Parts, open_parts, publish
from node.daemon.outside import Ears
from node.daemon.parts import registration, take_part
from node.daemon.prepare import prepare_node
from node.daemon.settings import StartSettings
from node.daemon.signals import Heeding, ended_by_signals
from node.daemon.status import Status, keep_writing
from node.daemon.watching import hear_announcements
from node.daemon.witness import Witness
from node.home import lock_home
from node.learning.devices import CPU
from node.network.metrics_page import metrics_page
from node.session.gossip import RoundReport
from node.storage import clear_staging, open_snapshots

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a node's run ended."""

    finished_round: int
    rounds: int
    records_confirmed: int
    records_pending: int
    stopped: bool  # by a signal, before the last round


async def run_node(settings: StartSettings, tell: Callable[[str], None]) -> Outcome | None:
    """Runs a node until its session's rounds are over or a signal ends it; `tell` gets lines for people.

    None if a signal ended it before it took part. Raises NodeError or LedgerError before anything is promised to
    anybody, or for a fault of our own.
    """
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 2) - 1))
    outcome: Outcome | None = None
    with lock_home(settings.home):
        async with ended_by_signals(tell) as heeding:
            outcome = await _run(settings, heeding, tell)
    return outcome


async def _run(settings: StartSettings, heeding: Heeding, tell: Callable[[str], None]) -> Outcome:
    if left := await trio.to_thread.run_sync(clear_staging, settings.home.path):
        log.info("%d copies on their way into IPFS, of a node that was killed, are removed", left)
    if settings.ipfs is not None:  # a daemon that does not answer must not cost a membership
        async with open_snapshots(settings.home.path, settings.ipfs):
            pass
    prepared = await trio.to_thread.run_sync(prepare_node, settings)
    session, session_id = prepared.opened.session, prepared.opened.session_id
    named = f"({session.name}), {session.rounds} rounds of {session.task}"
    tell(f"member {prepared.directory.own_index} of session {session_id:016x} {named}")
    if prepared.learner.device != CPU:
        tell(f"training on {prepared.learner.device}")
    async with open_parts(settings, prepared, tell) as parts, AsyncExitStack() as stack:
        life = Life(parts, tell)
        if (registered := life.status.registration()) is not None:
            tell(str(registered))
        if settings.metrics is not None:
            read = partial(node_metrics, parts.network, parts.recorder, prepared.learner, life.status)
            page = await stack.enter_async_context(metrics_page(*settings.metrics, read, parts.network.standings.tally))
            life.status.metrics_url = page.url
            tell(f"metrics at {page.url}")
        if settings.publish and await publish(prepared, parts.network):
            tell("the ledger says where this node is")
        heeding.by = life.heed
        return await life.live()


class Life:
    """The tasks of a running node, all of them in one nursery."""

    def __init__(self, parts: Parts, tell: Callable[[str], None]) -> None:
        outside = parts.outside
        self.settings, self.prepared, self.board = outside.settings, outside.prepared, outside.board
        self.network, self.recorder, self.replication = parts.network, parts.recorder, parts.replication
        self.tell = tell
        self.rounds = self.prepared.opened.session.rounds
        self.status = Status(self.settings.home, self.prepared, self.network, self.recorder, self.replication)
        succession = None if outside.takeover is None else outside.takeover.succession
        self.status.registration = partial(registration, self.prepared, succession)
        self.part = take_part(outside, Ears(self._observe, tell))
        self.rounds_scope, self.settling = trio.CancelScope(), trio.CancelScope()

    async def live(self) -> Outcome:
        """Everything from the first announcement to the last flushed record."""
        self.status.resume()
        for address in self.network.addresses():
            self.tell(f"listening on {address}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recorder.run)
            nursery.start_soon(self.replication.run)
            nursery.start_soon(self._follow_members)
            witness = Witness(self.prepared.opened, self.settings.home.evidence)
            nursery.start_soon(witness.run)
            nursery.start_soon(hear_announcements, self.network, self.board, self.settings.home, witness.hear)
            nursery.start_soon(keep_writing, self.status)
            nursery.start_soon(keep_trimming)
            finished = await self._rounds()
            self.status.observe("flushing records", finished)
            flushed = await self.recorder.flush(self.settings.flush_s)
            if flushed:
                await self._settle(finished)
            nursery.cancel_scope.cancel()
        over = finished == self.rounds or bool(self.part.ended)
        self.status.observe("finished" if over else "stopped", finished)
        self.status.write()
        if not flushed:
            self.tell("some records are not on the chain yet: they are kept, and sent at the next start")
        state = self.recorder.state
        stopped = self.part.stopping.is_set() and finished < self.rounds
        return Outcome(finished, self.rounds, state.confirmed, state.pending, stopped)

    async def _rounds(self) -> int:
        """The session's rounds, as far as they come; returns the last finished one."""
        with self.rounds_scope:
            await self.part.begin()
            await self.part.run()
            if self.part.ended:
                self.tell(f"the session is over: {self.part.ended}")
            self.status.observe("serving the others", self.part.finished)
            with trio.move_on_after(self.settings.linger_s):
                await self.part.linger()
        return self.part.finished

    async def _settle(self, finished: int) -> None:
        """The copies of the last snapshots, for which a second signal does not wait."""
        self.status.observe("replicating snapshots", finished)
        equals = self.prepared.opened.session.coordinated is None and not self.part.stopping.is_set()
        with self.settling:
            await self.replication.settle(self.settings.replicate_s, self.rounds if equals else None)

    def _observe(self, event: str, value: RoundReport | int) -> None:
        self.status.observe(event, value)
        if isinstance(value, RoundReport):
            self.tell(round_line(value, self.rounds))

    async def _follow_members(self) -> None:
        directory, opened = self.prepared.directory, self.prepared.opened

        def hint() -> None:
            for seat in directory.seats:
                self.network.hint(seat.peer_id, seat.addresses)

        hint()
        await keep_fresh(directory, opened.ledger, opened.session_id, hint)

    def heed(self, number: signal.Signals) -> None:
        """The first signal ends the round in flight within a deadline, a second one ends it at once."""
        if self.part.stopping.is_set() or self.status.state == "replicating snapshots":
            self.rounds_scope.cancel()
            self.settling.cancel()
            return
        self.tell(f"{number.name}: ending the round in flight, flushing records")
        self.part.stopping.set()
        waiting = self.status.state.startswith(("waiting for members", "serving"))
        self.rounds_scope.deadline = trio.current_time() + (0 if waiting else self.settings.stop_s)


def round_line(report: RoundReport, rounds: int) -> str:
    """A finished round for people."""
    score = next((each for each in ("accuracy", "loss") if f"validation_{each}" in report.metrics), "accuracy")
    shown = ("train_loss", f"validation_{score}", f"test_{score}")
    said = [f"{name.replace('_', ' ')} {report.metrics[name]:.4f}" for name in shown if name in report.metrics]
    if "epsilon" in report.metrics:
        unpaid = "" if "train_loss" in report.metrics else " (not trained: the budget does not pay for it)"
        said.append(f"epsilon {report.metrics['epsilon']:.3f}{unpaid}")
    mixed = sum(entry.weight > 0 for entry in report.inputs)
    said.append(f"mixed {mixed} update{'' if mixed == 1 else 's'}")
    return f"round {report.round} of {rounds}: {', '.join(said[:-1])}{'; ' if said[1:] else ''}{said[-1]}"
