"""Stop-gap outbox."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount

from ledger.client import Ledger
from ledger.errors import LedgerError
from ledger.payload import decode_mix, encode_mix
from ledger.values import Record


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    confirmed: int
    pending: int
    gas: int
    last_error: str | None = None


class Outbox:
    def __init__(self, path: Path, ledger: Ledger, account: LocalAccount) -> None:
        self._ledger, self._account, self._lock = ledger, account, threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.execute(
            "create table if not exists r(id integer primary key, session text, round int, hash blob, mix blob, gas int,"
            " done int default 0, unique(session, round, hash))"
        )

    def close(self) -> None:
        self._db.close()

    def add(self, record: Record) -> None:
        with self._lock:
            row = (f"{record.session_id:016x}", record.round, record.update_hash or b"", encode_mix(record.mix))
            self._db.execute("insert or ignore into r(session, round, hash, mix) values (?,?,?,?)", row)

    def pump(self) -> OutboxStatus:
        error = None
        row = self._db.execute(
            "select id, session, round, hash, mix from r where done=0 order by id limit 1"
        ).fetchone()
        if row:
            try:
                sid = int(row[1], 16)
                record = Record(sid, row[2], row[3] or None, decode_mix(row[4]))
                head = self._ledger.head(sid, self._account.address)
                gas = 0
                if head.next_round <= record.round:
                    gas = self._ledger.submit(self._account, record).gas_used
                self._db.execute("update r set done=1, gas=? where id=?", (gas, row[0]))
            except LedgerError as e:
                error = str(e)
        c, p, g = self._db.execute(
            "select coalesce(sum(done),0), coalesce(sum(1-done),0), coalesce(sum(gas),0) from r"
        ).fetchone()
        return OutboxStatus(c, p, g, error)
