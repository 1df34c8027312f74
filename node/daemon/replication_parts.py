"""Replication put together from a node's real parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.daemon.prepare import Prepared
from node.daemon.presence import Presence
from node.daemon.recorded import MixFollower
from node.daemon.replica_count import CopyCount
from node.daemon.replica_plan import Place, Registry
from node.daemon.replica_room import ReplicaRoom
from node.daemon.replication import FETCH_S, Replication, Standing, Tools
from node.daemon.settings import StartSettings
from node.learning.codecs import codec
from node.network.service import Network
from node.storage import Bounds, FetchBlocks, Snapshots, open_copier

PARTS = 5  # of at most a payload's size each, in a snapshot: update, mixed, two of moments, and what is around them
MARGIN = 1 << 20


@asynccontextmanager
async def open_replication(
    settings: StartSettings, prepared: Prepared, network: Network, snapshots: Snapshots, fetch: FetchBlocks
) -> AsyncIterator[Replication]:
    """Replication of the node's session, which begins with `run`. Raises StorageError."""
    session, own = prepared.opened.session, prepared.directory.own_index
    place = Place(prepared.opened.session_id, own, session.replicas, session.rounds, settings.keep_snapshots)
    parts = PARTS + codec(session.codec).depth  # and what differences build on
    largest = parts * session.limits.payload_bytes + MARGIN
    room = ReplicaRoom(snapshots, place, settings.snapshot_disk, collect=settings.ipfs is None)
    presence = Presence(prepared.directory, network.connected, own, settings.replica_patience_s)
    follower = MixFollower(prepared.opened)
    bounds = Bounds(FETCH_S, largest, settings.snapshot_disk)
    async with open_copier(settings.home.path, settings.ipfs, fetch, bounds) as copier:
        count = CopyCount(network, snapshots)
        tools = Tools(follower.read, snapshots, copier, room, presence, count, largest)
        try:
            yield Replication(tools, Registry(place), Standing(session.replicas, limit=settings.snapshot_disk))
        finally:
            follower.close()
