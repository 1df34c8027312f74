"""Which snapshots the ledger names, and which of them nobody may release. Knows no store."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from ledger import History
from node.agreement import OpenSession
from node.storage import Pin


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
