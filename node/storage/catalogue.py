"""The list of what this node pinned, in SQLite. Knows no blocks: it stores the digests that it is given.

A row is written only after the blocks are durable, so a pin without its blocks cannot exist. The digests of all blocks
stand in the row: a collection needs to read no block, and a damaged one cannot hide the blocks below it. A row has a
SHA-256 of itself, and a list that began anew beside blocks says so: from neither can it be known what is garbage.

A rollback journal, not a write-ahead log: on a full disk a log cannot even be opened for reading, so the collection
that would free the disk could not know what to keep (see tests/storage/test_faults.py). Writes are rare and small.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from node.errors import StorageError
from node.storage.cid import DIGEST_BYTES, format_cid, parse_cid
from node.storage.ports import Label, Pin

_PINS = """create table pins (
    cid blob primary key, session text, member integer, round integer, size integer not null, at real not null,
    digests blob not null,
    sum blob  -- SHA-256 of the other columns
    ) without rowid"""
_BEGAN_ANEW = "create table began_anew (at real not null)"  # a row: there are blocks that an earlier list knew
_BUSY_SECONDS = 10


class Catalogue:
    """Pins, durable when a method returns. A connection lives for one call: any thread or process may use it."""

    def __init__(self, path: Path, has_blocks: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        with self._open() as database:
            if "sum" not in _columns(database):
                database.execute("begin immediate")
                _prepare(database, has_blocks)
                database.execute("commit")

    def record(self, pin: Pin, digests: Sequence[bytes]) -> None:
        """Writes a pin, or renews the one of this CID; a label that is known already is kept unless a new one comes."""
        label = pin.label or self._label_of(pin.cid)
        columns = (None, None, None) if label is None else (str(label.session), label.member, label.round)
        row = (parse_cid(pin.cid), *columns, pin.size, float(pin.at), b"".join(digests))
        with self._open() as database:
            database.execute("insert or replace into pins values (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _sum(row)))

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
        """Digests of all blocks that any pin needs. Raises StorageError if a row of the list is damaged."""
        return {digest for row in self._rows() for digest in _split(self._sound(row))}

    def digests_of(self, cid: str) -> list[bytes]:
        """Digests of the blocks that one pin needs; none if there is no such pin. Raises StorageError as `digests`."""
        return [digest for row in self._rows(parse_cid(cid)) for digest in _split(self._sound(row))]

    def damaged(self) -> set[str]:
        """CIDs of the pins whose row is damaged, as they stand there; `record` makes a row whole again."""
        return {format_cid(row[0]) for row in self._rows() if row[-1] != _sum(row[:-1])}

    def began_anew(self) -> bool:
        """Whether an earlier list was lost: there were blocks already when this one was made."""
        with self._open() as database:
            return database.execute("select 1 from began_anew").fetchone() is not None

    def settle(self) -> None:
        """From now on this list is all that there is to know."""
        with self._open() as database:
            database.execute("delete from began_anew")

    def _rows(self, cid: bytes | None = None) -> list[tuple[Any, ...]]:
        with self._open() as database:
            return database.execute("select * from pins where cid = ?1 or ?1 is null", (cid,)).fetchall()

    def _sound(self, row: tuple[Any, ...]) -> bytes:
        """The digests of a row that is what was written."""
        if row[-1] != _sum(row[:-1]):
            cid = format_cid(row[0])
            raise StorageError(
                f"list of pins {self._path} is damaged in the row of {cid}, so nothing is removed: `fl-node snapshot "
                f"pin {cid}` writes it anew, `unpin` drops it if there is no such snapshot. Look at the disk"
            )
        digests: bytes = row[-2]
        return digests

    def _label_of(self, cid: str) -> Label | None:
        return next((pin.label for pin in self.pins() if pin.cid == cid), None)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("pragma synchronous=extra")  # full, and the directory after each commit
                yield database
        except sqlite3.Error as error:
            again = "pin the ledger's snapshots again, then `fl-node snapshot gc --force`"
            cure = f"free the disk, or move the file away, {again}"
            raise StorageError(f"list of pins {self._path} cannot be used ({error}): {cure}") from error


def new_pin(cid: str, label: Label | None, size: int) -> Pin:
    """A pin made now."""
    return Pin(cid, label, size, time.time())


def _columns(database: sqlite3.Connection) -> list[str]:
    return [row[1] for row in database.execute("pragma table_info(pins)")]


def _prepare(database: sqlite3.Connection, has_blocks: Callable[[], bool]) -> None:
    """Makes the tables, or gives the rows of a list that an earlier version made what they lack."""
    columns = _columns(database)
    if "sum" in columns:  # another process was faster
        return
    database.execute(_BEGAN_ANEW)
    if not columns:
        database.execute(_PINS)
        if has_blocks():
            database.execute("insert into began_anew values (?)", (time.time(),))
        return
    rows = database.execute("select * from pins").fetchall()
    database.execute("alter table pins add column sum blob")
    for row in rows:
        database.execute("update pins set sum = ? where cid = ?", (_sum(row), row[0]))


def _sum(row: tuple[Any, ...]) -> bytes:
    """Of whatever stands in a row, even what a fault of the disk made of it."""
    return hashlib.sha256(repr(tuple(row)).encode()).digest()


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _label(session: Any, member: Any, round: Any) -> Label | None:
    sound = str(session).isdecimal() and isinstance(member, int) and isinstance(round, int)
    return Label(int(session), member, round) if sound else None
