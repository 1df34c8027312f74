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
from node.daemon.earlier import EarlierPayloads
from node.daemon.journal import IN_MEMORY, Journal
from node.daemon.metrics import node_metrics
from node.daemon.parts import Ears, Outside, acts_as_coordinator, describe_part, forget_stop, take_part
from node.daemon.ports import Announced, IpfsSnapshots, LedgerRecords, NetworkPeers
from node.daemon.prepare import Prepared, prepare_node
from node.daemon.recording import Recorder
from node.daemon.replica_room import ReplicaRoom
from node.daemon.replication import Replication
from node.daemon.replication_parts import open_replication
from node.daemon.resume import Resumption, patience
from node.daemon.session_key import obtain_key
from node.daemon.settings import StartSettings
from node.daemon.spool import open_spool
from node.daemon.status import Status, keep_writing
from node.daemon.succession import LedgerSuccession, Takeover
from node.daemon.watching import hear_announcements
from node.daemon.witness import Witness
from node.errors import NetworkError
from node.home import lock_home
from node.messages import ABSENT
from node.network.metrics_page import metrics_page
from node.network.service import Network, NetworkSettings, open_network
from node.network.sink import SpoolRule
from node.session.board import Board
from node.session.gossip import RoundReport
from node.storage import BlockStore, Bounds, FetchBlocks, KuboBlocks, SealedSnapshots, Snapshots, open_snapshots

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
        if session.coordinated is not None:
            tell(describe_part(prepared))
        async with AsyncExitStack() as stack:
            form, model = prepared.learner.codec, prepared.learner.learner.spec
            journal = Journal(settings.home.state, keep=session.limits.staleness + 2 + form.depth)
            stack.callback(journal.close)
            prepared.learner.earlier = EarlierPayloads(journal, form, model) if form.depth else None
            terms = Terms(confirmations=settings.confirmations)
            outbox = Outbox(settings.home.outbox, prepared.opened.ledger, prepared.account, terms)
            stack.callback(outbox.close)
            recorder = Recorder(outbox)
            succession = await open_succession(settings, prepared)
            if acts_as_coordinator(prepared, succession):
                forget_stop(journal)
            network = await stack.enter_async_context(open_peers(settings, prepared, journal))
            fetch = share_blocks(settings, prepared, network)
            bounds = Bounds(disk=settings.snapshot_disk)
            snapshots = await stack.enter_async_context(
                open_snapshots(settings.home.path, settings.ipfs, fetch, bounds)
            )
            replication = await stack.enter_async_context(
                open_replication(settings, prepared, network, snapshots, fetch)
            )
            key = await obtain_key(settings, prepared, network, tell)
            opened = snapshots if key is None else SealedSnapshots(snapshots, key)
            wait_s = patience(settings, (*session.peers.bootstrap, *session.peers.trackers))
            resumed = await Resumption(prepared, journal, opened, settings.older_snapshot, wait_s, tell).run()
            records = LedgerRecords(recorder, session_id, journal.recorded)
            takeover = None
            if succession is not None:
                parts = (succession, prepared.directory, journal, records, recorder, opened, prepared.learner)
                takeover = Takeover(*parts, tell)
            outside = Outside(
                settings,
                prepared,
                NetworkPeers(network, prepared.identity),
                records,
                journal,
                ipfs_port(settings, prepared, opened, replication.tools.room),
                opened,
                Board(session_id, prepared.directory, window=session.limits.staleness + 2),
                resumed,
                takeover,
            )
            life = Life(outside, network, recorder, replication, tell)
            life.signals = signals
            if settings.metrics is not None:
                read = partial(node_metrics, network, recorder, prepared.learner, life.status)
                page = await stack.enter_async_context(metrics_page(*settings.metrics, read))
                life.status.metrics_url = page.url
                tell(f"metrics at {page.url}")
            if settings.publish and await publish(prepared, network):
                tell("the ledger says where this node is")
            return await life.live()


async def publish(prepared: Prepared, network: Network) -> bool:
    """Puts where this node listens on the ledger; whether that was news."""
    directory, opened = prepared.directory, prepared.opened
    seat = directory.seats[directory.own_index]
    return await publish_addresses(opened.ledger, opened.session_id, prepared.account, seat, network.addresses())


async def open_succession(settings: StartSettings, prepared: Prepared) -> LedgerSuccession | None:
    """Who coordinates by the ledger, in sessions that elect; NetworkError where the ledger does not answer."""
    coordinated = prepared.opened.session.coordinated
    if coordinated is None or not coordinated.election_s:
        return None
    succession = LedgerSuccession(prepared.opened, coordinated, settings.home.state / "succession.sqlite")
    if not await succession.refresh():
        raise NetworkError(
            "the ledger does not answer, and says who coordinates: start again when it does, or use --rpc"
        )
    return succession


def ipfs_port(settings: StartSettings, prepared: Prepared, snapshots: Snapshots, room: ReplicaRoom) -> IpfsSnapshots:
    """IPFS as the session's rounds see it; a user's daemon collects its own garbage."""
    own, session_id = prepared.directory.own_index, prepared.opened.session_id
    return IpfsSnapshots(snapshots, session_id, own, settings.keep_snapshots, settings.ipfs is None, room)


def open_peers(settings: StartSettings, prepared: Prepared, journal: Journal) -> AbstractAsyncContextManager[Network]:
    """The network, which serves the session's members."""
    session, directory = prepared.opened.session, prepared.directory
    options = NetworkSettings(
        listen=settings.listen,
        peers=(*settings.peers, *session.peers.bootstrap),
        trackers=(*settings.trackers, *session.peers.trackers),
        relays=settings.relays,
        mdns=settings.mdns,
        dht=settings.dht,
        session_id=prepared.opened.session_id,
        payload_limit=session.limits.payload_bytes,
        spool=SpoolRule(IN_MEMORY, open_spool(settings.home.spool)),
    )

    def is_member(peer_id: str) -> bool:
        return directory.index_of(peer_id) is not None

    return open_network(
        prepared.identity, options, is_member, Announced(journal, prepared.shelf), journal.announcements
    )


def share_blocks(settings: StartSettings, prepared: Prepared, network: Network) -> FetchBlocks:
    """How to get others' IPFS blocks; gives ours over bitswap, in an open session to everybody."""
    everybody = prepared.opened.session.access == "open"
    directory = prepared.directory
    embedded = BlockStore(settings.home.ipfs / "blocks")
    store = embedded if settings.ipfs is None else KuboBlocks(embedded, settings.ipfs)
    network.serve_blocks(store, lambda peer_id: everybody or directory.index_of(peer_id) is not None)

    async def fetch(cids: Sequence[bytes]) -> Mapping[bytes, bytes]:
        return await network.fetch_blocks(cids, sorted(network.connected()), trio.current_time() + FETCH_S)

    return fetch


class Life:
    """The tasks of a running node, all of them in one nursery."""

    signals: AsyncIterator[int]

    def __init__(
        self,
        outside: Outside,
        network: Network,
        recorder: Recorder,
        replication: Replication,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.prepared, self.board = outside.settings, outside.prepared, outside.board
        self.network, self.recorder, self.tell = network, recorder, tell
        self.rounds = outside.prepared.opened.session.rounds
        self.replication = replication
        self.status = Status(self.settings.home, self.prepared, network, recorder, replication)
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
            nursery.start_soon(self._heed_signals)
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
        path = self.settings.home.path / "members.json"
        await keep_fresh(directory, opened.ledger, opened.session_id, path, hint)

    async def _heed_signals(self) -> None:
        """The first signal ends the round in flight within a deadline, a second one ends it at once."""
        async for number in self.signals:
            if self.part.stopping.is_set() or self.status.state == "replicating snapshots":
                self.rounds_scope.cancel()
                self.settling.cancel()
                continue
            self.tell(f"{signal.Signals(number).name}: ending the round in flight, flushing records")
            self.part.stopping.set()
            waiting = self.status.state.startswith(("waiting for members", "serving"))
            self.rounds_scope.deadline = trio.current_time() + (0 if waiting else self.settings.stop_s)


def round_line(report: RoundReport, rounds: int) -> str:
    """A finished round for people."""
    shown = ("train_loss", "validation_accuracy", "test_accuracy")
    metrics = ", ".join(
        f"{name.replace('_', ' ')} {report.metrics[name]:.4f}" for name in shown if name in report.metrics
    )
    if "epsilon" in report.metrics:
        metrics += f", epsilon {report.metrics['epsilon']:.3f}"
        metrics += "" if "train_loss" in report.metrics else " (not trained: the budget does not pay for it)"
    present = sum(entry.lag != ABSENT for entry in report.inputs)
    return f"round {report.round} of {rounds}: {metrics}; mixed {present} updates"
