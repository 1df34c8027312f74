"""What an operator asks about snapshots: a list, one in detail, its files on disk. Frozen answers; prints nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from node.errors import StorageError
from node.storage.blocks import writing_to
from node.storage.names import is_file_name
from node.storage.ports import Entry, Pin, Snapshots


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that is kept here; `whole` is false when blocks of it are damaged or lost; `named` by the ledger."""

    pin: Pin
    whole: bool
    named: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that is kept, oldest first, and the bytes that the store takes on disk."""

    held: tuple[Held, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Description:
    """One snapshot: its files, and the pin if it is kept here."""

    cid: str
    entries: tuple[Entry, ...]
    pin: Pin | None


async def take_inventory(snapshots: Snapshots, named: Collection[str] = ()) -> Inventory:
    """What this node keeps. Every block of it is read and verified."""
    damaged = await snapshots.damaged()
    broken = {pin.cid for pin in damaged}
    pins = sorted({*await snapshots.pins(), *damaged}, key=lambda pin: pin.at)
    held = (Held(pin, pin.cid not in broken, pin.cid in named) for pin in pins)
    return Inventory(tuple(held), await snapshots.size())


async def describe(snapshots: Snapshots, cid: str) -> Description:
    """The files of a snapshot, fetched from peers if it is not here. Raises ContentMissing."""
    entries = await snapshots.entries(cid)
    pin = next((pin for pin in await snapshots.pins() if pin.cid == cid), None)
    return Description(cid, tuple(entries), pin)


async def export(snapshots: Snapshots, cid: str, directory: Path, limit: int) -> tuple[Path, ...]:
    """Paths of the snapshot's files, now in `directory`, at most `limit` bytes together. Overwrites nothing."""
    entries = await snapshots.entries(cid)
    size = sum(entry.size for entry in entries)  # what each file's root promises; more of it is never written
    if size > limit:
        raise StorageError(f"{cid} has {size:,} bytes, at most {limit:,} are allowed: raise the limit")
    for entry in entries:
        if not is_file_name(entry.name):
            raise StorageError(f"{cid} holds a file named {entry.name[:80]!r}: it is no snapshot, use `ipfs get`")
        if (directory / entry.name).exists():
            raise StorageError(f"{directory / entry.name} is there already: name another directory")
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        await snapshots.fetch_to(cid, entry.name, directory / entry.name, limit)
    return tuple(directory / entry.name for entry in entries)
