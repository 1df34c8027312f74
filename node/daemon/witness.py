"""What members announce held against what they record: who says one thing here and another there leaves evidence."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cachetools import FIFOCache

from ledger import LedgerError, MemberEntry, PayloadError
from ledger.signed import signed_transaction
from ledger.testimony import Commitment, commitments, words_of
from node.agreement import OpenSession
from node.daemon.watching import announcement_json
from node.files import write_atomically
from node.messages import Announcement
from node.network.identity import peer_id_of

log = logging.getLogger(__name__)
LOOK_S = 3.0
TRIES = 20  # to get the signed transaction of one contradiction
LOOK_BACK = 5_000  # blocks: who records before the others start can't show them something else unseen
REMEMBERED = 4096  # announcements, and as many commitments; records may come minutes after what they commit to

Key = tuple[str, int]  # peer id, round


@dataclass
class Witness:
    """Remembers what was announced and what was recorded, whichever comes first; `look` asks the chain."""

    opened: OpenSession
    evidence: Path  # the directory for what it finds
    next_block: int | None = None  # None: LOOK_BACK before the chain's head
    _announced: "FIFOCache[Key, Announcement]" = field(default_factory=lambda: FIFOCache(REMEMBERED))
    _recorded: "FIFOCache[Key, tuple[MemberEntry, Commitment]]" = field(default_factory=lambda: FIFOCache(REMEMBERED))
    _failed: dict[Key, int] = field(default_factory=dict)  # how often the evidence of a contradiction could not be had

    def hear(self, announcement: Announcement) -> None:
        """Takes in an announcement whose signature was verified."""
        if announcement.session_id == self.opened.session_id:
            self._announced.setdefault((announcement.peer_id, announcement.round), announcement)

    async def run(self) -> None:
        """Looks at the chain for ever; while it is out of reach, later."""
        while True:
            try:
                await self.look()
            except LedgerError as error:
                log.debug("announcements can't be compared with records: %s", error)
            await trio.sleep(LOOK_S)

    async def look(self) -> list[Path]:
        """Reads the records since the last look; the evidence that was saved for new contradictions."""
        head, members, found = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True)  # type: ignore[call-arg]
        for commitment in found:
            member = members.get(commitment.account)
            if member is not None:
                self._recorded.setdefault((peer_id_of(member.peer_key), commitment.round), (member, commitment))
        self.next_block = head + 1
        saved = []
        for key in self._recorded.keys() & self._announced.keys():
            announced, (member, recorded) = self._announced[key], self._recorded[key]
            if announced.digest != recorded.update_hash:
                try:
                    saved.append(await trio.to_thread.run_sync(self._save, announced, recorded, member))
                except LedgerError as error:
                    if self._asks_again(key, member, error):
                        continue
            self._failed.pop(key, None)
            del self._announced[key], self._recorded[key]  # not before: a chain that fails is asked again
        return saved

    def _asks_again(self, key: Key, member: MemberEntry, error: LedgerError) -> bool:
        """Whether the evidence that could not be had is asked for again; says so at the first time."""
        self._failed[key] = self._failed.get(key, 0) + 1
        if self._failed[key] == 1:
            what = "member %d announced another update for round %d than it recorded, but there is no evidence yet: %s"
            log.warning(what, member.index, key[1], error)
        return self._failed[key] < TRIES

    def _ask(self) -> tuple[int, dict[str, MemberEntry], list[Commitment]]:
        ledger, session_id = self.opened.ledger, self.opened.session_id
        head = ledger.chain.block_number()
        first = max(0, head - LOOK_BACK) if self.next_block is None else self.next_block
        if first > head:
            return head, {}, []
        found = list(commitments(ledger.chain, ledger.address, session_id, first, head))
        return head, {member.account: member for member in ledger.members(session_id)}, found

    def _save(self, announced: Announcement, recorded: Commitment, member: MemberEntry) -> Path:
        transaction = signed_transaction(self.opened.ledger.chain, recorded.tx_hash)
        if (signer := words_of(transaction).account) != recorded.account:
            raise PayloadError(f"{recorded.tx_hash} is signed by {signer}, not by {recorded.account}")
        record = {
            "transaction": transaction.hex(),
            "binding": member.binding.hex(),
            "chain_id": self.opened.ledger.chain.chain_id(),  # an old-style transaction does not say
        }
        self.evidence.mkdir(exist_ok=True, mode=0o700)
        path = self.evidence / f"contradiction-{member.index}-{announced.round}.json"
        told = {"kind": "contradiction", "announcement": announcement_json(announced), "record": record}
        write_atomically(path, json.dumps(told, indent=1).encode())
        log.warning(
            "member %d announced another update for round %d than it recorded; evidence: %s",
            member.index,
            announced.round,
            path,
        )
        return path
