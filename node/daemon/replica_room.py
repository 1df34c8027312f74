"""The disk that own snapshots and replicas share: where it is short, replicas go first. Knows no peers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from node.daemon.replica_plan import Place
from node.storage import Pin, Snapshots

log = logging.getLogger(__name__)
PAUSE_S = 300.0  # without new replicas after some were released


class ReplicaRoom:
    """Releases replicas for own snapshots, and says whether there is room for another one.

    Args:
        snapshots: of this node.
        place: which of them are replicas.
        disk: bytes of all snapshots, None without a limit.
        collect: whether what is released may be removed from the disk; a shared daemon's is its user's affair.

    """

    def __init__(self, snapshots: Snapshots, place: Place, disk: int | None, collect: bool) -> None:
        self.disk = disk
        self._snapshots, self._place, self._collect = snapshots, place, collect
        self._fetching: trio.CancelScope | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._garbage = False
        self.surplus: frozenset[str] = frozenset()  # CIDs that go first
        self._full_until = -1.0  # trio's clock

    @property
    def busy(self) -> bool:
        """Whether a replica is on its way: a garbage collection would wait for it."""
        return self._fetching is not None

    @contextmanager
    def fetching(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Around the fetch of a replica, which ends early where own snapshots need the room."""
        self._idle = trio.Event()
        try:
            with trio.move_on_after(seconds) as self._fetching:
                yield self._fetching
        finally:
            self._fetching = None
            self._idle.set()

    def collect_later(self) -> None:
        """Notes that there is garbage, to be removed when no replica is on its way."""
        self._garbage = True

    async def tidy(self) -> None:
        """Removes the garbage that was noted."""
        if self._garbage and self._collect:
            self._garbage = False
            await self._snapshots.gc()

    async def admits(self, size: int) -> bool:
        """Whether a replica of `size` bytes leaves room for an own snapshot of as many. Raises StorageError."""
        if trio.current_time() < self._full_until:
            return False
        return self.disk is None or await self._snapshots.size() + 2 * size <= self.disk

    async def give_way(self, incoming: int) -> None:
        """Makes room for so many bytes of an own snapshot, if there is a limit and it is near. Raises StorageError."""
        if self.disk is None:
            return
        short = await self._snapshots.size() + incoming - self.disk
        if short > 0:
            await self.release(short)

    async def release(self, wanted: int) -> bool:
        """Releases replicas of at least so many bytes, or all; whether any was. Raises StorageError."""
        if self._fetching is not None:
            self._fetching.cancel()
            await self._idle.wait()
        freed, count = 0, 0
        for pin in sorted(
            (pin for pin in await self._snapshots.pins() if self._place.is_replica(pin)), key=self._order
        ):
            if freed >= wanted:
                break
            await self._snapshots.unpin(pin.cid)
            freed, count = freed + pin.size, count + 1
        if count:
            self._full_until = trio.current_time() + PAUSE_S
            log.warning("%d replicas (%s bytes) make room for own snapshots", count, f"{freed:,}")
            if self._collect:
                await self._snapshots.gc()
        return count > 0

    def _order(self, pin: Pin) -> tuple[bool, int]:
        """What others are to keep goes first, then the oldest rounds."""
        return pin.cid not in self.surplus, pin.label.round if pin.label else 0
