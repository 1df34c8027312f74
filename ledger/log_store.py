"""A session's events in SQLite: follows the chain's head, and forgets what a reorganisation undid. Decodes no record.

A block whose hash still stands vouches for all blocks before it, so the newest stored block that the chain still has
says from where to read on.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.chain import Chain
from ledger.errors import HistoryError
from ledger.events import RECORDED, Event, fetch_logs, parse_logs, session_topic
from ledger.values import SessionEntry

Progress = Callable[[int, int], None]
"""Gets (blocks read, blocks to read)."""

_BATCH = 500  # receipts or headers asked for in one request
_TRIES = 5
_LARGEST = 1 << 63  # what SQLite and pandas hold
_SCHEMA = """
create table if not exists about(one integer primary key check (one = 1), what text);
create table if not exists blocks(number integer primary key, hash text);
create table if not exists events(block integer, position integer, tx_hash text, timestamp integer, kind text,
    account text, round integer, closing integer, body blob, primary key (block, position)) without rowid;
create index if not exists by_round on events(kind, round, account);
create table if not exists receipts(tx_hash text primary key, gas integer, price integer);
"""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose events: the chain, the contract's address, the session."""

    chain: Chain
    address: str
    session: SessionEntry

    def __str__(self) -> str:
        chain_id = self.chain.expected_id or self.chain.chain_id()
        return f"session {self.session.session_id:016x} of {self.address} on chain {chain_id}, version 1"


class LogStore:
    """The events up to a block. Without a path they are in a temporary file that vanishes with the store.

    Raises:
        HistoryError: the file can't be used, or holds another session.

    """

    def __init__(self, source: Source, path: Path | None = None) -> None:
        self.source = source
        self.lasting = path is not None
        self.last = source.session.created_block - 1
        self.mark: str | None = None  # the hash of block `last`: the same one vouches for the same events
        try:
            self.db = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False)
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma cache_size = -256")  # KiB; a node's would grow for hundreds of rounds
            self.db.execute("pragma synchronous = normal")  # a cache: what a power cut takes is read again
            self.db.executescript(_SCHEMA)
            self.db.execute("insert or ignore into about values (1, ?)", (str(source),))
            ((found,),) = self.db.execute("select what from about")
        except sqlite3.Error as error:
            raise HistoryError(f"the history cache {path} can't be used ({error}): name another file") from error
        if found != str(source):
            raise HistoryError(f"{path} holds the history of {found}, not of {source}: name another file")

    def close(self) -> None:
        """Closes the file."""
        self.db.close()

    def follow(self, behind: int = 0, progress: Progress | None = None) -> int:
        """The last block that the store now covers: `behind` blocks before the chain's head.

        Raises:
            HistoryError: the node withholds events, or changes its mind faster than they can be read.

        """
        for _ in range(_TRIES):
            head = max(0, self.source.chain.block_number() - behind)
            mark = self._hash(head)
            if self._read_to(head, mark, progress):
                self.last, self.mark = head, mark
                return head
        raise HistoryError(f"{self.source.chain.url} reorganises faster than its events can be read: try again")

    def stands(self) -> bool:
        """Whether the chain still has the block up to which events were read."""
        return self._hash(self.last) == self.mark

    def _read_to(self, head: int, mark: str | None, progress: Progress | None) -> bool:
        """Whether the block `head` was the same before and after reading; else nothing is kept."""
        self._begin()
        stands = False
        try:
            self._catch_up(head, progress)
            stands = mark is not None and self._hash(head) == mark
            if stands:
                self.db.execute("insert or replace into blocks values (?, ?)", (head, mark))
        finally:
            self.db.execute("commit" if stands else "rollback")
        return stands

    def _begin(self) -> None:
        try:
            self.db.execute("begin immediate")
        except sqlite3.OperationalError as error:
            raise HistoryError(f"the history cache can't be written ({error}): is another program using it?") from error

    def _catch_up(self, head: int, progress: Progress | None) -> None:
        created = self.source.session.created_block
        start = max(self._forget_undone() + 1, created)
        topics = [None, session_topic(self.source.session.session_id)]
        if start > head:
            return
        for until, logs in fetch_logs(self.source.chain, self.source.address, topics, start, head):
            self._insert(list(parse_logs(logs, self.source.session.session_id)))
            if progress:
                progress(until - start + 1, head - start + 1)

    def _insert(self, events: Sequence[Event]) -> None:
        times = self._timestamps({event.block for event in events if event.timestamp is None})
        rows = []
        for one in events:
            round, closing = None, None
            if one.kind == RECORDED:
                round, closing = int.from_bytes(one.body[20:24], "big"), not any(one.body[24:56])
            time = times[one.block] if one.timestamp is None else one.timestamp
            rows.append((one.block, one.position, one.tx_hash, time, one.kind, one.account, round, closing, one.body))
        try:
            self.db.executemany("insert into events values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise HistoryError(f"{self.source.chain.url} serves one log twice: ask another node") from error
        marks = {event.block: event.block_hash for event in events}
        self.db.executemany("insert or replace into blocks values (?, ?)", marks.items())

    def _forget_undone(self) -> int:
        """The newest stored block that the chain still has, after all that came later was deleted."""
        position, step, newest = 0, 1, "select number, hash from blocks order by number desc limit 1 offset ?"
        while (mark := self.db.execute(newest, (position,)).fetchone()) and self._hash(mark[0]) != mark[1]:
            position, step = position + step, step * 2
        stands: int = mark[0] if mark else -1
        self._forget(stands + 1)
        return stands

    def forget(self, first: int) -> None:
        """Lets the events of block `first` and later be read again by the next `follow`."""
        self._begin()
        self._forget(first)
        self.db.execute("commit")
        self.mark = None

    def _forget(self, first: int) -> None:
        self.db.execute("delete from receipts where tx_hash in (select tx_hash from events where block >= ?)", (first,))
        self.db.execute("delete from events where block >= ?", (first,))
        self.db.execute("delete from blocks where number >= ?", (first,))

    def _hash(self, number: int) -> str | None:
        header = self.source.chain.block(number) if number >= 0 else None
        found = header.get("hash") if header else None
        return found if isinstance(found, str) else None

    def _timestamps(self, blocks: set[int]) -> dict[int, int]:
        wanted = sorted(blocks)
        headers = self._ask("eth_getBlockByNumber", [(hex(number), False) for number in wanted])
        try:
            return {number: int(one["timestamp"], 16) for number, one in zip(wanted, headers, strict=True)}
        except (TypeError, KeyError, ValueError) as error:
            raise HistoryError(f"{self.source.chain.url} has logs of blocks whose headers it lacks: {error}") from error

    def fetch_receipts(self) -> None:
        """Fills in gas and price of every transaction that is still without."""
        missing = self.db.execute(
            "select distinct tx_hash from events where tx_hash not in (select tx_hash from receipts)"
        ).fetchall()
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            rows = [_receipt(one) for one in self._ask("eth_getTransactionReceipt", part)]
            self._begin()
            self.db.executemany("insert or replace into receipts values (?, ?, ?)", [row for row in rows if row])
            self.db.execute("commit")

    def _ask(self, method: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(params), _BATCH):
            found += self.source.chain.rpc.batch(method, params[start : start + _BATCH])
        return found

    def events(self, kinds: Sequence[str]) -> Iterator[Event]:
        """Events of these kinds in the chain's order, without their block's hash."""
        query = f"""select block, position, '', tx_hash, timestamp, kind, account, body from events
            where kind in ({",".join("?" * len(kinds))}) and block <= ? order by block, position"""  # noqa: S608
        return (Event(*row) for row in self.db.execute(query, (*kinds, self.last)))


def _receipt(found: Any) -> tuple[str, int, int] | None:
    """A receipt's row; None for what is no receipt (the transaction was undone meanwhile)."""
    try:
        row = found["transactionHash"], int(found["gasUsed"], 16), int(found.get("effectiveGasPrice", "0x0"), 16)
    except (TypeError, KeyError, ValueError):
        return None
    if not all(0 <= number < _LARGEST for number in row[1:]):
        raise HistoryError(f"the node serves a receipt of {row[1]} gas at {row[2]} wei for {row[0]!r:.80}: ask another")
    return row
