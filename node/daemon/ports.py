"""The real parts behind the session's ports: network, outbox, disk, IPFS. Each method is one call and a thread."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import trio

import ledger
from node.daemon.handing_out import Shelf
from node.daemon.journal import Journal
from node.daemon.recording import Recorder
from node.errors import PeerError, StorageError
from node.files import Piece
from node.messages import Announcement, Content, Mix, Traffic
from node.network.identity import Identity
from node.network.service import Network
from node.session.ports import Payload, Progress, Trained, payload_size
from node.storage import Label, Retention, Snapshots, digest_of, retain

log = logging.getLogger(__name__)
SNAPSHOT_S = 30.0
SNAPSHOT_RATE = 8 << 20  # bytes per second that a large one is given beyond it
ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class NetworkPeers:
    """Implements `node.session.ports.Peers`."""

    network: Network
    identity: Identity

    @property
    def peer_id(self) -> str:
        """This node's own id."""
        return self.identity.peer_id

    def connected(self) -> frozenset[str]:
        """Peers that are connected now."""
        return self.network.connected()

    async def announce(self, announcement: Announcement) -> None:
        """Tells everybody."""
        await self.network.announce(announcement)

    async def ask(self, peer_id: str, since: int = 0) -> None:
        """Asks a peer what was announced from round `since` on."""
        with trio.move_on_after(ASK_S):
            try:
                await self.network.refresh(peer_id, since)
            except PeerError as error:
                log.info("%s", error)

    async def tell(self, peer_id: str, announcement: Announcement) -> None:
        """Tells one peer in person."""
        await self.network.tell(peer_id, announcement)

    async def fetch_to(self, wanted: Content, holder: str, seconds: float, path: Path) -> None:
        """Bytes of that hash in a file that may have the first of them. Raises PeerError."""
        await self.network.fetch_to(wanted, [holder], trio.current_time() + seconds, path)

    def own_round(self) -> int:
        """The newest round that others say this node announced, 0 if none: also what a lost disk knew."""
        return self.network.announced_round(self.identity.peer_id)

    async def fetch(self, announcement: Announcement, holders: Sequence[str], deadline: float) -> Payload:
        """The announced bytes, verified."""
        return await self.network.fetch(announcement, holders, trio.current_time() + deadline)

    def traffic(self) -> Mapping[str, Traffic]:
        """Wire bytes per peer since the start."""
        return self.network.traffic()

    def sign(self, message: bytes) -> bytes:
        """The node's Ed25519 signature."""
        return self.identity.sign(message)


@dataclass(frozen=True, slots=True)
class LedgerRecords:
    """Implements `node.session.ports.Records` with the durable outbox."""

    recorder: Recorder
    session_id: int
    before: Callable[[], tuple[int, bytes] | None] = lambda: None  # the last record of an earlier disk, see `resume`

    async def commit(self, round: int, digest: bytes, mix: Mix | None) -> None:
        """Puts the record of a round on disk; without the mix, if a closing record before a crash has it already."""
        if self.before() == (round, digest):
            return
        if mix is not None and await self.recorder.has_closing(self.session_id, mix.round + 1):
            mix = None
        await self.recorder.add(ledger.Record(self.session_id, round, digest, ledger_mix(mix)))

    async def close(self, round: int, mix: Mix) -> None:
        """Puts the closing record on disk."""
        await self.recorder.add(ledger.Record(self.session_id, round, None, ledger_mix(mix)))


def ledger_mix(mix: Mix | None) -> ledger.Mix | None:
    """A mix in the ledger's own words."""
    if mix is None:
        return None
    inputs = tuple(ledger.Input(entry.member, entry.weight, entry.lag) for entry in mix.inputs)
    snapshot = digest_of(mix.snapshot) if mix.snapshot else None
    return ledger.Mix(mix.members, inputs, mix.mixed_hash, snapshot, mix.epsilon)


class Stateful(Protocol):
    """A learner, as far as the disk sees it."""

    def checkpoint_pieces(self) -> Sequence[Piece]:
        """Everything that the next round depends on, as pieces of a file."""

    def restore(self, checkpoint: bytes | Path) -> None:
        """Goes back to a checkpoint. HomeError if it is of another model."""


@dataclass(frozen=True, slots=True)
class DiskJournal:
    """Implements `node.session.ports.Journal` and `node.session.coordinated.CoordinatedJournal`."""

    journal: Journal
    learner: Stateful

    async def load(self) -> Progress:
        """Where to go on; the learner goes back to its checkpoint."""
        return await trio.to_thread.run_sync(self._load)

    def _load(self) -> Progress:
        checkpoint = self.journal.checkpoint()
        round = 1
        if checkpoint is not None:
            self.learner.restore(checkpoint.path)
            round = max(checkpoint.round + 1, self.journal.last_trained())  # rounds may have been left out
        kept = self.journal.update(round)
        committed = Trained(*kept) if kept else None
        pending = None if checkpoint is None or checkpoint.closed else checkpoint.mix
        return Progress(round, pending, committed, self.journal.promised(round))

    async def newest(self) -> tuple[int, Trained] | None:
        """The newest update that is on disk, with its round."""
        found = await trio.to_thread.run_sync(self.journal.newest_update)
        return None if found is None else (found[0], Trained(*found[1:]))

    async def announcement(self, round: int) -> Announcement | None:
        """Our own announcement of a round."""
        known = await trio.to_thread.run_sync(self.journal.announcements, round)
        return next((each for each in known if each.round == round), None)

    async def note(self, round: int) -> bytes:
        """What was kept with a round's update, to be announced with it."""
        return await trio.to_thread.run_sync(self.journal.note, round)

    async def trained(self, round: int, trained: Trained, note: bytes = b"") -> Trained:
        """Keeps an update's payload; a file of the spool becomes the journal's."""
        await trio.to_thread.run_sync(self.journal.save_update, round, trained.payload, trained.digest, note)
        if isinstance(trained.payload, bytes):
            return trained
        return replace(trained, payload=self.journal.payload_path(trained.digest))

    async def announced(self, announcement: Announcement) -> None:
        """Keeps a signed announcement."""
        await trio.to_thread.run_sync(self.journal.save_announcement, announcement)

    async def mixed(self, mix: Mix) -> None:
        """Keeps the learner's state and the mix."""
        await trio.to_thread.run_sync(lambda: self.journal.save_checkpoint(mix, self.learner.checkpoint_pieces()))

    async def left_out(self, round: int) -> None:
        """Keeps the learner's state; no record is to carry a mix of that round."""
        await trio.to_thread.run_sync(lambda: self.journal.save_mixless(round, self.learner.checkpoint_pieces()))

    async def closed(self) -> None:
        """Notes that the last mix is in a closing record."""
        await trio.to_thread.run_sync(self.journal.mark_closed)


class Room(Protocol):
    """The disk that own snapshots share with replicas of others'."""

    @property
    def busy(self) -> bool:
        """Whether a garbage collection would have to wait for a replica that is on its way."""

    def collect_later(self) -> None:
        """Leaves the garbage to who brings the replica."""

    async def give_way(self, incoming: int) -> None:
        """Makes room within the disk's limit for so many bytes. Raises StorageError."""

    async def release(self, wanted: int) -> bool:
        """Releases replicas of so many bytes; whether there were any. Raises StorageError."""


@dataclass(frozen=True, slots=True)
class IpfsSnapshots:
    """Implements `node.session.ports.Snapshots`."""

    snapshots: Snapshots
    session_id: int
    member: int
    retention: Retention | None = None  # None: all stay
    collect: bool = True  # whether what is released is removed from the disk; a shared daemon's is not
    room: Room | None = None  # None: there are no replicas

    async def add(self, round: int, files: Mapping[str, Payload]) -> str | None:
        """The CID of the pinned directory; None, and a warning, where IPFS did not take it in time."""
        size = sum(map(payload_size, files.values()))
        seconds = SNAPSHOT_S + size / SNAPSHOT_RATE
        try:
            with trio.fail_after(seconds):
                cid = await self._add(files, size, Label(self.session_id, self.member, round))
        except (StorageError, trio.TooSlowError) as error:
            log.warning("round %d has no snapshot: %s", round, error or f"IPFS took over {seconds:g} s")
            return None
        await self._release()
        return cid

    async def _add(self, files: Mapping[str, Payload], size: int, label: Label) -> str:
        """Own snapshots go before replicas where the disk is short."""
        if self.room is None:
            return await self.snapshots.add(files, label)
        await self.room.give_way(size)
        try:
            return await self.snapshots.add(files, label)
        except StorageError:
            if not await self.room.release(size):
                raise
        return await self.snapshots.add(files, label)

    async def _release(self) -> None:
        """Releases what the operator's policy does not keep, recorded or not."""
        if self.retention is None:
            return
        waits = self.room is not None and self.room.busy
        try:
            with trio.fail_after(SNAPSHOT_S):
                released = await retain(self.snapshots, self.retention, (), self.collect and not waits)
                if self.room is not None and waits and released.released:
                    self.room.collect_later()
        except (StorageError, trio.TooSlowError) as error:
            log.warning("old snapshots stay for now: %s", error or f"IPFS took over {SNAPSHOT_S:g} s")


@dataclass(frozen=True, slots=True)
class Announced:
    """What peers may have: payloads that were announced, so committed before, and data that are served.

    In `others` are accepted payloads of other members, who have announced them, and so committed before, too.
    """

    journal: Journal
    shelf: Shelf | None
    others: Mapping[bytes, Payload]

    def open(self, digest: bytes) -> Payload | None:
        """The payload or file of that hash; None for a payload before its announcement, and for anything else."""
        path = self.journal.payload_path(digest)
        if self.journal.is_announced(digest) and path.is_file():
            return path
        served = None if self.shelf is None else self.shelf.open(digest)
        return served or self.others.get(digest)
