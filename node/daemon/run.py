"""A node's whole life on one page: check everything, open the parts, go through the rounds, flush, end."""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

import torch
import trio

from ledger import Outbox
from ledger.delivery import Terms
from node.daemon.directory import keep_fresh, publish_addresses
from node.daemon.journal import Journal
from node.daemon.metrics import node_metrics
from node.daemon.ports import Announced, DiskJournal, IpfsSnapshots, LedgerRecords, NetworkPeers
from node.daemon.prepare import Prepared, initial_parameters, prepare_node
from node.daemon.recording import Recorder
from node.daemon.settings import StartSettings
from node.daemon.status import Status, keep_writing
from node.daemon.watching import hear_announcements
from node.errors import NetworkError
from node.home import lock_home
from node.messages import ABSENT
from node.network.metrics_page import metrics_page
from node.network.service import Network, NetworkSettings, open_network
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.gather import Gatherer
from node.session.gossip import Gossip, Plan, Ports, RoundReport, linger, wait_for_quorum
from node.storage import BlockStore, FetchBlocks, Snapshots, open_snapshots

log = logging.getLogger(__name__)
FETCH_S = 30.0  # for one batch of IPFS blocks


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a node's run ended."""

    finished_round: int
    rounds: int
    records_confirmed: int
    records_pending: int
    stopped: bool  # by a signal, before the last round


async def run_node(settings: StartSettings, tell: Callable[[str], None]) -> Outcome:
    """Runs a node until its session's rounds are over or a signal ends it; `tell` gets lines for people.

    Raises NodeError or LedgerError before anything is promised to anybody, or for a fault of our own.
    """
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 2) - 1))
    with lock_home(settings.home), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        if settings.ipfs is not None:  # a daemon that does not answer must not cost a membership
            async with open_snapshots(settings.home.path, settings.ipfs):
                pass
        prepared = await trio.to_thread.run_sync(prepare_node, settings)
        session, session_id = prepared.opened.session, prepared.opened.session_id
        tell(f"member {prepared.directory.own_index} of session {session_id:016x} ({session.name})")
        async with AsyncExitStack() as stack:
            journal = Journal(settings.home.state, keep=session.limits.staleness + 2)
            stack.callback(journal.close)
            terms = Terms(confirmations=settings.confirmations)
            outbox = Outbox(settings.home.outbox, prepared.opened.ledger, prepared.account, terms)
            stack.callback(outbox.close)
            recorder = Recorder(outbox)
            network = await stack.enter_async_context(open_peers(settings, prepared, journal))
            fetch = share_blocks(settings, prepared, network)
            snapshots = await stack.enter_async_context(open_snapshots(settings.home.path, settings.ipfs, fetch))
            ports = Ports(
                NetworkPeers(network, prepared.identity),
                prepared.directory,
                prepared.learner,
                LedgerRecords(recorder, session_id),
                DiskJournal(journal, prepared.learner),
                IpfsSnapshots(snapshots, session_id, prepared.directory.own_index),
            )
            life = Life(settings, prepared, ports, network, recorder, tell)
            life.signals, life.snapshots = signals, snapshots
            if settings.metrics is not None:
                read = partial(node_metrics, network, recorder, life.status)
                page = await stack.enter_async_context(metrics_page(*settings.metrics, read))
                life.status.metrics_url = page.url
                tell(f"metrics at {page.url}")
            if settings.publish:
                seat, opened = prepared.directory.seats[prepared.directory.own_index], prepared.opened
                where = (opened.ledger, session_id, prepared.account, seat)
                if await publish_addresses(*where, network.addresses()):
                    tell("the ledger says where this node is")
            return await life.live()


def open_peers(settings: StartSettings, prepared: Prepared, journal: Journal) -> AbstractAsyncContextManager[Network]:
    """The network, which serves the session's members."""
    session, directory = prepared.opened.session, prepared.directory
    options = NetworkSettings(
        listen=settings.listen,
        peers=(*settings.peers, *session.peers.bootstrap),
        trackers=(*settings.trackers, *session.peers.trackers),
        mdns=settings.mdns,
        dht=settings.dht,
        session_id=prepared.opened.session_id,
        payload_limit=session.limits.payload_bytes,
    )

    def is_member(peer_id: str) -> bool:
        return directory.index_of(peer_id) is not None

    return open_network(prepared.identity, options, is_member, Announced(journal), journal.announcements)


def share_blocks(settings: StartSettings, prepared: Prepared, network: Network) -> FetchBlocks:
    """How to get others' IPFS blocks; gives ours over bitswap, in an open session to everybody."""
    everybody = prepared.opened.session.access == "open"
    directory = prepared.directory
    store = BlockStore(settings.home.ipfs / "blocks")
    network.serve_blocks(store, lambda peer_id: everybody or directory.index_of(peer_id) is not None)

    async def fetch(cids: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return await network.fetch_blocks(cids, sorted(network.connected()), trio.current_time() + FETCH_S)

    return fetch


class Life:
    """The tasks of a running node, all of them in one nursery."""

    signals: AsyncIterator[int]
    snapshots: Snapshots

    def __init__(
        self,
        settings: StartSettings,
        prepared: Prepared,
        ports: Ports,
        network: Network,
        recorder: Recorder,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.prepared, self.ports = settings, prepared, ports
        self.network, self.recorder, self.tell = network, recorder, tell
        session, directory = prepared.opened.session, prepared.directory
        self.plan = Plan(
            prepared.opened.session_id, session.rounds, session.cohort, session.codec, session.snapshot_every
        )
        self.board = Board(self.plan.session_id, directory, window=session.limits.staleness + 2)
        deadline = AdaptiveDeadline(session.limits.round_deadline_s)
        gatherer = Gatherer(ports.peers, directory, self.board, ports.learner, session.limits.staleness, deadline)
        self.status = Status(settings.home, prepared, network, recorder)
        self.gossip = Gossip(self.plan, ports, self.board, gatherer, self._observe)
        self.rounds_scope = trio.CancelScope()

    async def live(self) -> Outcome:
        """Everything from the first announcement to the last flushed record."""
        self.status.resume()
        for address in self.network.addresses():
            self.tell(f"listening on {address}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recorder.run)
            nursery.start_soon(self._follow_members)
            nursery.start_soon(hear_announcements, self.network, self.board, self.settings.home)
            nursery.start_soon(keep_writing, self.status)
            nursery.start_soon(self._heed_signals)
            finished = await self._rounds()
            self.status.observe("flushing records", finished)
            flushed = await self.recorder.flush(self.settings.flush_s)
            nursery.cancel_scope.cancel()
        self.status.observe("finished" if finished == self.plan.rounds else "stopped", finished)
        self.status.write()
        if not flushed:
            self.tell("some records are not on the chain yet: they are kept, and sent at the next start")
        state = self.recorder.state
        stopped = self.gossip.stopping.is_set() and finished < self.plan.rounds
        return Outcome(finished, self.plan.rounds, state.confirmed, state.pending, stopped)

    async def _rounds(self) -> int:
        """The session's rounds, as far as they come; returns the last finished one."""
        session = self.prepared.opened.session
        with self.rounds_scope:
            progress = await self.ports.journal.load()
            self.gossip.finished = progress.next_round - 1
            if not self.gossip.finished:  # a node that goes on after a crash needs no quorum: the others may have ended
                await self._begin(session.quorum)
            await self.gossip.run()
            if not self.gossip.stopping.is_set():
                self.status.observe("serving the others", self.gossip.finished)
                with trio.move_on_after(self.settings.linger_s):
                    await linger(self.ports, self.board, self.plan.rounds)
        return self.gossip.finished

    async def _begin(self, quorum: int) -> None:
        """Waits for the quorum before the first round. NetworkError if it does not come."""
        with trio.move_on_after(self.settings.quorum_s) as patience:
            await wait_for_quorum(self.ports, quorum, self._tell_presence)
        if patience.cancelled_caught:
            raise NetworkError(
                f"fewer than {quorum} members came within {self.settings.quorum_s:g} s: "
                "start the others, check --peers, or wait longer with --quorum-timeout"
            )
        await initial_parameters(self.prepared, self.snapshots)

    def _observe(self, event: str, value: RoundReport | int) -> None:
        self.status.observe(event, value)
        if isinstance(value, RoundReport):
            self.tell(round_line(value, self.plan.rounds))

    def _tell_presence(self, present: int) -> None:
        quorum = self.prepared.opened.session.quorum
        self.status.observe(f"waiting for members ({present} of {quorum})", 0)
        self.tell(f"{present} of {quorum} members are here" + (", waiting for the others" if present < quorum else ""))

    async def _follow_members(self) -> None:
        directory, opened = self.prepared.directory, self.prepared.opened

        def hint() -> None:
            for seat in directory.seats:
                self.network.hint(seat.peer_id, seat.addresses)

        hint()
        path = self.settings.home.path / "members.json"
        await keep_fresh(directory, opened.ledger, opened.session_id, path, hint)

    async def _heed_signals(self) -> None:
        """The first signal ends the round in flight within a deadline, a second one ends it at once."""
        async for number in self.signals:
            if self.gossip.stopping.is_set():
                self.rounds_scope.cancel()
                continue
            self.tell(f"{signal.Signals(number).name}: ending the round in flight, flushing records")
            self.gossip.stopping.set()
            waiting = self.status.state.startswith(("waiting", "serving"))
            self.rounds_scope.deadline = trio.current_time() + (0 if waiting else self.settings.stop_s)


def round_line(report: RoundReport, rounds: int) -> str:
    """A finished round for people."""
    shown = ("train_loss", "validation_accuracy", "test_accuracy")
    metrics = ", ".join(
        f"{name.replace('_', ' ')} {report.metrics[name]:.4f}" for name in shown if name in report.metrics
    )
    present = sum(entry.lag != ABSENT for entry in report.inputs)
    return f"round {report.round} of {rounds}: {metrics}; mixed {present} updates"
