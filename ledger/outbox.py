"""Records on disk until the ledger has them: durable, ordered, exactly once in effect. Knows no training.

The ledger's own hash chain says what has arrived. Each record is kept with the slot that it leads to, so the slot on
the chain names the last record that is there, whatever happened to transactions in between: see `delivery`.
"""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount

from ledger.client import Ledger
from ledger.delivery import Delivery, Terms
from ledger.errors import LedgerError, OutboxError
from ledger.payload import entry_of
from ledger.store import Store
from ledger.values import Record


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How far the records are."""

    pending: int  # not confirmed yet
    sent: int  # of those: in a transaction on its way, or in a block that is not deep enough
    confirmed: int
    gas: int  # of all mined transactions, failed ones included
    last_error: str | None = None  # of the last pump; None if it went well


class Outbox:
    """One account's records for one contract, in one SQLite file. Thread-safe; `add` never waits for the chain.

    Args:
        path: of the file, made if it is missing.
        ledger: where the records go; it need not be reachable, if its chain's id is known.
        account: signs and pays.
        terms: confirmations, patience, the size of a batch, the highest fee.

    Raises:
        OutboxError: the file can't be used, is no outbox, or belongs to another contract.

    """

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        account: LocalAccount,
        terms: Terms | None = None,
    ) -> None:
        chain_id = ledger.chain.expected_id or ledger.chain.chain_id()
        self._account = account
        self._store = Store(path, account.address, f"contract {ledger.address} on chain {chain_id}")
        self._delivery = Delivery(self._store, ledger, account, terms or Terms())
        self._pumping = threading.Lock()
        self._last_error: str | None = None

    def add(self, record: Record) -> bool:
        """Whether the record is new; when this returns, it is on disk and will reach the chain.

        Raises:
            OutboxError: another record of that round is there, or a later one, or the disk fails.
            PayloadError: no record can hold these numbers.

        """
        entry = entry_of(self._account.address, record)
        try:
            return self._store.add(record.session_id, entry)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def has_closing(self, session_id: int, round: int) -> bool:
        """Whether a closing record of the round is in the outbox: its mix must not be recorded again."""
        try:
            return self._store.has_closing(session_id, round)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def status(self) -> OutboxStatus:
        """How far the records are, without asking the chain."""
        try:
            pending, sent, confirmed, gas = self._store.counts()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return OutboxStatus(pending, sent, confirmed, gas, self._last_error)

    def pump(self) -> OutboxStatus:
        """The status after one bounded step: look where the chain is; send, send again, or confirm.

        It never waits for a block: call it every second or so. What goes wrong on the chain's side is in `last_error`,
        and the next call tries again. A second call while one is under way returns at once.

        Raises:
            OutboxError: the file can't be used.

        """
        if self._pumping.acquire(blocking=False):
            try:
                self._last_error = self._step()
            except sqlite3.Error as error:
                raise self._broken(error) from error
            finally:
                self._pumping.release()
        return self.status()

    def _step(self) -> str | None:
        trouble = None
        for session_id in self._store.sessions():
            try:
                self._delivery.step(session_id)
            except LedgerError as error:
                trouble = str(error)
        return trouble

    def close(self) -> None:
        """Closes the file."""
        self._store.close()

    def _broken(self, error: sqlite3.Error) -> OutboxError:
        return OutboxError(f"the outbox {self._store.path} can't be used ({error}): check the disk, then start again")
