"""The list of what this node pinned, in SQLite. Knows no blocks: it stores the digests that it is given.

A row is written only after the blocks are durable, so a pin without its blocks cannot exist. The digests of all blocks
stand in the row: a collection needs to read no block, and a damaged one cannot hide the blocks below it.

A rollback journal, not a write-ahead log: on a full disk a log cannot even be opened for reading, so the collection
that would free the disk could not know what to keep (see tests/storage/test_faults.py). Writes are rare and small.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from node.errors import StorageError
from node.storage.cid import DIGEST_BYTES, format_cid, parse_cid
from node.storage.ports import Label, Pin

_SCHEMA = """create table if not exists pins (
    cid blob primary key, session text, member integer, round integer, size integer not null, at real not null,
    digests blob not null) without rowid"""
_BUSY_SECONDS = 10


class Catalogue:
    """Pins, durable when a method returns. A connection lives for one call: any thread or process may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.execute(_SCHEMA)

    def record(self, pin: Pin, digests: Sequence[bytes]) -> None:
        """Writes a pin, or renews the one of this CID; a label that is known already is kept unless a new one comes."""
        label = pin.label or self._label_of(pin.cid)
        columns = (None, None, None) if label is None else (str(label.session), label.member, label.round)
        row = (parse_cid(pin.cid), *columns, pin.size, pin.at, b"".join(digests))
        with self._open() as database:
            database.execute("insert or replace into pins values (?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, cid: str) -> bool:
        """True if there was such a pin."""
        with self._open() as database:
            return database.execute("delete from pins where cid = ?", (parse_cid(cid),)).rowcount > 0

    def pins(self) -> list[Pin]:
        """All pins, oldest first."""
        with self._open() as database:
            query = "select cid, session, member, round, size, at from pins order by at, cid"
            rows = database.execute(query).fetchall()
        return [Pin(format_cid(cid), _label(*label), size, at) for cid, *label, size, at in rows]

    def digests(self) -> set[bytes]:
        """Digests of all blocks that any pin needs."""
        with self._open() as database:
            blobs = [blob for (blob,) in database.execute("select digests from pins")]
        return {digest for blob in blobs for digest in _split(blob)}

    def digests_of(self, cid: str) -> list[bytes]:
        """Digests of the blocks that one pin needs; none if there is no such pin."""
        with self._open() as database:
            row = database.execute("select digests from pins where cid = ?", (parse_cid(cid),)).fetchone()
        return [] if row is None else _split(row[0])

    def _label_of(self, cid: str) -> Label | None:
        return next((pin.label for pin in self.pins() if pin.cid == cid), None)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("pragma synchronous=extra")  # full, and the directory after each commit
                yield database
        except sqlite3.Error as error:
            cure = "free the disk, or move the file away and pin the ledger's snapshots again"
            raise StorageError(f"list of pins {self._path} cannot be used ({error}): {cure}") from error


def new_pin(cid: str, label: Label | None, size: int) -> Pin:
    """A pin made now."""
    return Pin(cid, label, size, time.time())


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _label(session: str | None, member: int | None, round: int | None) -> Label | None:
    return None if session is None or member is None or round is None else Label(int(session), member, round)
