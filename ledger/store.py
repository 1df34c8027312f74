"""The outbox's SQLite file: rows in, rows out, every change on disk when the call returns. Knows no chain."""

import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.disk import CURE, add_column, require_sound
from ledger.errors import OutboxError

_VERSION = 1
_SCHEMA = """
create table if not exists belongs(version integer, contract text);
create table if not exists starts(session blob, account text, slot blob not null, primary key (session, account));
create table if not exists records(
    seq integer primary key autoincrement, session blob not null, account text not null,
    round integer not null, closing integer not null, entry blob not null,
    slot blob,  -- the ledger's slot after this record
    block integer,  -- where it was first seen on the chain, null while it is not there
    confirmed integer not null default 0,
    digest blob,  -- of the entry; null in rows that an earlier version wrote
    unique (session, account, round, closing));
create index if not exists by_slot on records(session, account, slot);
create table if not exists attempts(
    tx_hash text primary key, session blob not null, account text not null, nonce integer not null,
    first integer not null, last integer not null,  -- the seq of the records that it carries
    most text not null, tip text, raw blob not null, height integer not null,  -- of the chain when it was made
    live integer not null default 1,  -- its fate is not settled yet
    block integer, gas integer);
"""
_ROW = "seq, session, round, entry, slot, block, confirmed, digest"
_ATTEMPT = "tx_hash, session, nonce, first, last, most, tip, raw, height, block"


@dataclass(frozen=True, slots=True)
class Row:
    """A record in the outbox, and what is known of it."""

    seq: int
    session_id: int
    round: int
    entry: bytes  # payload.entry_of(…)
    slot: int | None
    block: int | None
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed transaction that carries the records `first` to `last`."""

    tx_hash: str
    session_id: int
    nonce: int
    first: int
    last: int
    most: int  # wei per gas
    tip: int | None
    raw: bytes
    height: int  # of the chain when it was made
    block: int | None = None


class Store:
    """One account's records for one contract. Safe to use from several threads.

    Raises:
        OutboxError: the file can't be used, or belongs to another contract.

    """

    def __init__(self, path: Path, account: str, contract: str) -> None:
        self.path = path
        self._account = account
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(_SCHEMA)
            add_column(self._db, "records", "digest", "blob")
            require_sound(self._db)
            found = self._db.execute("select version, contract from belongs").fetchone()
            if found is None:
                found = (_VERSION, contract)
                self._db.execute("insert into belongs values (?, ?)", found)
        except sqlite3.Error as error:
            raise OutboxError(f"{path} can't be used as an outbox ({error}): {CURE}") from error
        if found != (_VERSION, contract):
            self._db.close()
            raise OutboxError(f"{path} holds records for {found[1]}, not for {contract}: use another home directory")
        try:
            for session_id in self.sessions():
                self.latest(session_id)  # a record that is not what was written must never be sent
        except OutboxError:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    # ---- records ----

    def add(self, session_id: int, entry: bytes) -> bool:
        """Whether the record is new.

        Raises:
            OutboxError: it contradicts a record that is there.

        """
        number, closing = int.from_bytes(entry[20:24], "big"), not any(entry[24:56])
        key = (_blob(session_id), self._account)
        with self._lock, _Transaction(self._db):
            query = "select entry from records where (session, account) = (?, ?) and round = ? and closing = ?"
            found = self._db.execute(query, (*key, number, closing)).fetchone()
            if found:
                self._require_same(found[0], entry, number)
                return False
            query = "select round, closing from records where (session, account) = (?, ?) order by seq desc limit 1"
            last, closed = self._db.execute(query, key).fetchone() or (-1, 0)
            if number < last or (number == last and not closed):
                raise OutboxError(f"round {number} comes after {last}: rounds only go up, go on with the next one")
            query = "insert into records (session, account, round, closing, entry, digest) values (?, ?, ?, ?, ?, ?)"
            self._db.execute(query, (*key, number, closing, entry, _digest(entry)))
        return True

    def _require_same(self, found: bytes, entry: bytes, number: int) -> None:
        if found == entry:
            return
        old, new = found[24:56].hex()[:12], entry[24:56].hex()[:12]
        what = f"update {old}… where {new}… was to be added" if old != new else f"another mix beside update {old}…"
        raise OutboxError(f"{self.path} has round {number} with {what}: a record is never changed")

    def sessions(self) -> list[int]:
        """The sessions that there are records for."""
        query = "select session from records where account = ? group by session order by min(seq)"
        return [_number(one) for (one,) in self._all(query, (self._account,))]

    def latest(self, session_id: int) -> list[Row]:
        """The last record that is confirmed, then those that are not, in order.

        Raises:
            OutboxError: one of them is not what was written.

        """
        last = "select coalesce(max(seq), 0) from records where (session, account) = (?, ?) and confirmed"
        where = f"where (session, account) = (?, ?) and seq >= ({last}) order by seq"
        query = f"select {_ROW} from records {where}"  # noqa: S608
        key = (_blob(session_id), self._account)
        return [self._whole(one) for one in self._all(query, (*key, *key))]

    def _whole(self, r: tuple) -> Row:  # type: ignore[type-arg]
        row, digest = _row(r), r[7]
        if digest is not None and digest != _digest(row.entry):
            raise OutboxError(f"{self.path}: the record of round {row.round} is not what was written: {CURE}")
        return row

    def has_closing(self, session_id: int, round: int) -> bool:
        """Whether there is a closing record of the round."""
        query = "select 1 from records where (session, account, round, closing) = (?, ?, ?, 1)"
        return bool(self._all(query, (_blob(session_id), self._account, round)))

    def seq_of(self, session_id: int, slot: int) -> int | None:
        """The record that leads to the slot."""
        query = "select seq from records where (session, account, slot) = (?, ?, ?)"
        found = self._all(query, (_blob(session_id), self._account, slot.to_bytes(32, "big")))
        return int(found[0][0]) if found else None

    def start(self, session_id: int) -> int | None:
        """The slot before the first record, None if it was never seen."""
        query = "select slot from starts where (session, account) = (?, ?)"
        found = self._all(query, (_blob(session_id), self._account))
        return _number(found[0][0]) if found else None

    def set_start(self, session_id: int, slot: int) -> None:
        """Keeps the slot before the first record."""
        self._change(
            "insert into starts values (?, ?, ?)", [(_blob(session_id), self._account, slot.to_bytes(32, "big"))]
        )

    def set_slots(self, slots: Sequence[tuple[int, int]]) -> None:
        """Keeps (seq, slot after that record)."""
        values = [(slot.to_bytes(32, "big"), seq) for seq, slot in slots]
        self._change("update records set slot = ? where seq = ?", values)

    def set_places(self, rows: Sequence[Row]) -> None:
        """Keeps block and confirmation of the rows."""
        values = [(row.block, row.confirmed, row.seq) for row in rows]
        self._change("update records set block = ?, confirmed = ? where seq = ?", values)

    def take_back(self, session_id: int, after: int) -> None:
        """Forgets that records after the seq `after` were on the chain, and reopens their transactions."""
        key = (_blob(session_id), self._account, after)
        with self._lock, _Transaction(self._db):
            where = "where (session, account) = (?, ?) and"
            self._db.execute(
                f"update records set block = null, confirmed = 0 {where} seq > ?",  # noqa: S608
                key,
            )
            self._db.execute(
                f"update attempts set live = 1, block = null, gas = null {where} last > ? and block is not null",  # noqa: S608
                key,
            )

    def counts(self) -> tuple[int, int, int, int]:
        """How many records are not confirmed, how many of those are on their way, how many are confirmed; all gas."""
        on_way = """block is not null or exists (select 1 from attempts a where live
            and a.session = r.session and a.account = r.account and r.seq between first and last)"""
        query = f"""select coalesce(sum(not confirmed), 0), coalesce(sum(not confirmed and ({on_way})), 0),
            coalesce(sum(confirmed), 0), (select coalesce(sum(gas), 0) from attempts) from records r"""  # noqa: S608
        ((pending, sent, confirmed, gas),) = self._all(query, ())
        return pending, sent, confirmed, gas

    # ---- attempts ----

    def attempts(self) -> list[Attempt]:
        """Transactions whose fate is not settled, in the order of sending."""
        query = f"select {_ATTEMPT} from attempts where live and account = ? order by rowid"  # noqa: S608
        return [_attempt(one) for one in self._all(query, (self._account,))]

    def add_attempt(self, attempt: Attempt) -> None:
        """Keeps a transaction: before it is sent, so that no crash can forget it."""
        a = attempt
        prices = (str(a.most), None if a.tip is None else str(a.tip))  # SQLite's integers end at 64 bits
        row = (a.tx_hash, _blob(a.session_id), self._account, a.nonce, a.first, a.last, *prices, a.raw, a.height)
        query = """insert or replace into attempts
            (tx_hash, session, account, nonce, first, last, most, tip, raw, height) values (?,?,?,?,?,?,?,?,?,?)"""
        self._change(query, [row])

    def expire(self, tx_hash: str) -> None:
        """Lets the next step replace the transaction, however new it is."""
        self._change("update attempts set height = 0 where tx_hash = ?", [(tx_hash,)])

    def set_mined(self, tx_hash: str, block: int, gas: int) -> None:
        """Keeps where a transaction is and what it took."""
        self._change("update attempts set block = ?, gas = ? where tx_hash = ?", [(block, gas, tx_hash)])

    def settle(self, tx_hashes: Sequence[str]) -> None:
        """The fate of these transactions is settled."""
        self._change("update attempts set live = 0 where tx_hash = ?", [(one,) for one in tx_hashes])

    def _all(self, query: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _change(self, query: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            with self._lock, _Transaction(self._db):
                self._db.executemany(query, rows)


class _Transaction:
    """All of a `with` block's changes, or none."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._db.in_transaction:  # with a full disk SQLite has rolled back already
            self._db.execute("rollback" if kind else "commit")


def _row(r: tuple) -> Row:  # type: ignore[type-arg]
    return Row(r[0], _number(r[1]), r[2], r[3], None if r[4] is None else _number(r[4]), r[5], bool(r[6]))


def _attempt(a: tuple) -> Attempt:  # type: ignore[type-arg]
    tip = None if a[6] is None else int(a[6])
    return Attempt(a[0], _number(a[1]), a[2], a[3], a[4], int(a[5]), tip, a[7], a[8], a[9])


def _digest(entry: bytes) -> bytes:
    return hashlib.sha256(entry).digest()


def _blob(session_id: int) -> bytes:
    return session_id.to_bytes(8, "big")  # SQLite's integers are signed


def _number(blob: bytes) -> int:
    return int.from_bytes(blob, "big")
