"""Which snapshots the ledger names, and which of them nobody may release. Knows no store."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from ledger import History, RecordedMix
from node.agreement import OpenSession
from node.storage import Pin

MAY_MOVE = 64  # blocks behind the head that are read again


@dataclass(frozen=True, slots=True)
class Recorded:
    """The snapshots of a session that are on the ledger, and the newest round with a mix of each member."""

    session_id: int
    cids: frozenset[str]
    newest: dict[int, int]

    def protects(self, pin: Pin) -> bool:
        """Whether the ledger names a snapshot, or may soon: its round is newer than what its member has recorded."""
        if pin.cid in self.cids:
            return True
        label = pin.label
        if label is None or label.session != self.session_id:
            return False
        return label.round > self.newest.get(label.member, 0)

    def protected(self, pins: Sequence[Pin]) -> Collection[str]:
        """The CIDs of the pins that the ledger protects, and of all that are of another session."""
        foreign = {pin.cid for pin in pins if pin.label is not None and pin.label.session != self.session_id}
        return foreign | {pin.cid for pin in pins if self.protects(pin)}


def recorded_snapshots(opened: OpenSession) -> Recorded:
    """Reads the ledger; synchronous. Raises LedgerError."""
    with History(opened.ledger, opened.session_id) as history:
        records = history.records(gas=False)
    done = records[records["complete"]]
    newest: dict[int, int] = {}
    for member, round in zip(done["member"], done["round"], strict=True):
        newest[int(member)] = max(int(round), newest.get(int(member), 0))
    return Recorded(opened.session_id, frozenset(done["snapshot"][pd.notna(done["snapshot"])]), newest)


class MixFollower:
    """The mixes that are on the ledger, read on from where the last reading ended. Synchronous; one call at a time."""

    def __init__(self, opened: OpenSession) -> None:
        self._opened = opened
        self._history: History | None = None
        self._after = -1
        self._reading = threading.Lock()
        self._closed = False

    def read(self) -> list[RecordedMix]:
        """What is new since the last call, and some that is not: a reorganisation may have moved it. LedgerError."""
        with self._reading:
            try:
                if self._history is None:
                    self._history = History(self._opened.ledger, self._opened.session_id)
                head, found = self._history.mixes(self._after)
                self._after = head - MAY_MOVE
                return found
            finally:
                if self._closed:
                    self._end()

    def close(self) -> None:
        """Forgets everything; a reading that was left behind does so when it ends."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._reading.release()

    def _end(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None
