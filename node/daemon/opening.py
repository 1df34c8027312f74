"""The parts of a running node, opened in the order in which they need each other, and closed in the opposite one."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass

import trio

from ledger import Outbox
from ledger.delivery import Terms
from node.daemon.directory import publish_addresses
from node.daemon.earlier import EarlierPayloads
from node.daemon.journal import IN_MEMORY, Journal
from node.daemon.outside import Outside
from node.daemon.parts import coordinates, forget_stop
from node.daemon.ports import Announced, IpfsSnapshots, LedgerRecords, NetworkPeers
from node.daemon.prepare import Prepared
from node.daemon.recording import Recorder
from node.daemon.replica_room import ReplicaRoom
from node.daemon.replication import Replication
from node.daemon.replication_parts import open_replication
from node.daemon.resume import Resumption, patience
from node.daemon.session_key import obtain_key
from node.daemon.settings import StartSettings
from node.daemon.spool import open_spool
from node.daemon.succession import LedgerSuccession, Takeover, first_of_office
from node.errors import NetworkError
from node.network.meeting import PunchRules
from node.network.service import Network, NetworkSettings, open_network
from node.network.sink import SpoolRule
from node.session.board import Board
from node.storage import BlockStore, Bounds, FetchBlocks, KuboBlocks, SealedSnapshots, Snapshots, open_snapshots

FETCH_S = 30.0  # for one batch of IPFS blocks


@dataclass(frozen=True, slots=True)
class Parts:
    """What a life is made of."""

    outside: Outside
    network: Network
    recorder: Recorder
    replication: Replication


@asynccontextmanager
async def open_parts(settings: StartSettings, prepared: Prepared, tell: Callable[[str], None]) -> AsyncIterator[Parts]:
    """Journal, outbox, network, snapshots and what was resumed from them. NodeError where one does not open."""
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(closing(await trio.to_thread.run_sync(open_journal, settings, prepared)))
        terms = Terms(confirmations=settings.confirmations)
        outbox = Outbox(settings.home.outbox, prepared.opened.ledger, prepared.account, terms)
        recorder = Recorder(stack.enter_context(closing(outbox)))
        succession = await open_succession(settings, prepared)
        if coordinates(prepared, succession):
            forget_stop(journal)
        network = await stack.enter_async_context(open_peers(settings, prepared, journal))
        prepared.learner.tally = network.standings.tally
        fetch, bounds = share_blocks(settings, prepared, network), Bounds(disk=settings.snapshot_disk)
        stored = await stack.enter_async_context(open_snapshots(settings.home.path, settings.ipfs, fetch, bounds))
        replication = await stack.enter_async_context(open_replication(settings, prepared, network, stored, fetch))
        key = await obtain_key(settings, prepared, network, tell)
        snapshots = stored if key is None else SealedSnapshots(stored, key, settings.home.path)
        records = LedgerRecords(recorder, prepared.opened.session_id, journal.recorded)
        takeover = None
        if succession is not None:
            tools = (succession, prepared.directory, journal, records, recorder, snapshots, prepared.learner)
            takeover = Takeover(*tools, tell)
        wait_s, office = patience(settings, prepared.opened.session.peers), office_of(prepared, succession)
        resumption = Resumption(prepared, journal, snapshots, settings.older_snapshot, wait_s, office, tell)
        outside = Outside(
            settings,
            prepared,
            NetworkPeers(network, prepared.identity),
            records,
            journal,
            ipfs_port(settings, prepared, snapshots, replication.tools.room),
            snapshots,
            open_board(prepared),
            await resumption.run(),
            takeover,
        )
        yield Parts(outside, network, recorder, replication)


def open_journal(settings: StartSettings, prepared: Prepared) -> Journal:
    """The node's journal without damaged payloads; the learner reads from it what its codec's updates build on."""
    form, model = prepared.learner.codec, prepared.learner.learner.spec
    journal = Journal(settings.home.state, keep=prepared.opened.session.limits.staleness + 2 + form.depth)
    journal.forget_leftovers()
    journal.forget_damaged()
    prepared.learner.earlier = EarlierPayloads(journal, form, model) if form.depth else None
    return journal


def open_board(prepared: Prepared) -> Board:
    """Where announcements are pinned."""
    window = prepared.opened.session.limits.staleness + 2
    return Board(prepared.opened.session_id, prepared.directory, window=window)


def office_of(prepared: Prepared, succession: LedgerSuccession | None) -> int | None:
    """The first round in which this member coordinates; None if it does not."""
    return first_of_office(succession) if coordinates(prepared, succession) else None


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
        punching=PunchRules() if settings.hole_punching else None,
        mdns=settings.mdns,
        dht=settings.dht,
        session_id=prepared.opened.session_id,
        payload_limit=session.limits.payload_bytes,
        spool=SpoolRule(IN_MEMORY, open_spool(settings.home.spool)),
    )

    def is_member(peer_id: str) -> bool:
        return directory.index_of(peer_id) is not None

    return open_network(
        prepared.identity, options, is_member, Announced(journal, prepared.shelf, prepared.held), journal.announcements
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
