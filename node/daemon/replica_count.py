"""How many copies there are of the snapshots that a node is first in line for: it asks those who should have one.

A member's word is believed: who claims to have blocks and has none is found out by whoever needs them.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.backoff import pause_after
from node.daemon.replica_plan import Named
from node.errors import PeerError, StorageError
from node.storage import Snapshots

ASKED_AT_ONCE = 256  # blocks, of all snapshots together, in one look
ANSWER_S = 10.0
FIRST_AGAIN_S, LAST_AGAIN_S = 3.0, 600.0  # after a no
STANDS_S = 3600.0  # a yes

log = logging.getLogger(__name__)

Copy = tuple[str, int]  # CID, member


class HasBlocks(Protocol):
    """The network, as far as copies are counted."""

    async def has_blocks(self, peer_id: str, cids: Iterable[bytes], seconds: float) -> frozenset[bytes]:
        """Which of these blocks a peer says that it has. Raises PeerError."""


@dataclass
class CopyCount:
    """What the holders said."""

    peers: HasBlocks
    snapshots: Snapshots
    _confirmed: dict[Copy, float] = field(default_factory=dict)  # when; trio's clock
    _refused: dict[Copy, tuple[int, float]] = field(default_factory=dict)  # how often, and when to ask again

    def has(self, cid: str, member: int) -> bool:
        """Whether a member said, at last, that it has a whole copy."""
        return (cid, member) in self._confirmed

    def others(self, named: Named, others: Iterable[int]) -> int:
        """How many of these members said that they have a copy."""
        return sum(self.has(named.cid, member) for member in others)

    async def ask(self, led: Mapping[Named, Sequence[int]], reachable: Mapping[int, str], hurry: bool) -> None:
        """Asks whom it is time to ask, the newest snapshots first. Never raises for a peer's fault."""
        now = trio.current_time()
        self._forget({(named.cid, member) for named, others in led.items() for member in others})
        asked: dict[int, dict[str, list[bytes]]] = {}
        left = ASKED_AT_ONCE
        for named, member in self._due(led, reachable, now, hurry):
            try:
                blocks = await self.snapshots.block_cids(named.cid)
            except StorageError as error:  # of our own copy, which is mended, or fetched again
                log.info("copies of %s are counted later: %s", named.cid, error)
                continue
            if left < len(blocks) and left < ASKED_AT_ONCE:  # one that is larger than that is asked for alone
                break
            left -= len(blocks)
            asked.setdefault(member, {})[named.cid] = blocks
        for member, wanted in asked.items():
            await self._ask_one(member, reachable[member], wanted)

    def _due(
        self, led: Mapping[Named, Sequence[int]], reachable: Mapping[int, str], now: float, hurry: bool
    ) -> Iterator[tuple[Named, int]]:
        for named in sorted(led, key=lambda named: -named.round):
            for member in led[named]:
                key = named.cid, member
                stands = now - self._confirmed.get(key, -STANDS_S) < STANDS_S
                waits = now < self._refused.get(key, (0, -1.0))[1] and not hurry
                if member in reachable and not stands and not waits:
                    yield named, member

    async def _ask_one(self, member: int, peer_id: str, wanted: Mapping[str, Sequence[bytes]]) -> None:
        cids = [block for blocks in wanted.values() for block in blocks]
        try:
            found = await self.peers.has_blocks(peer_id, cids, ANSWER_S)
        except PeerError:
            found = frozenset()
        now = trio.current_time()
        for cid, blocks in wanted.items():
            key = cid, member
            if found.issuperset(blocks):
                self._confirmed[key] = now
                self._refused.pop(key, None)
            else:
                self._confirmed.pop(key, None)
                tries = 1 + self._refused.get(key, (0, 0.0))[0]
                self._refused[key] = tries, now + pause_after(tries, FIRST_AGAIN_S, LAST_AGAIN_S)

    def _forget(self, asked_for: set[Copy]) -> None:
        """Drops what is known of copies that nobody asks for any more."""
        for known in (self._confirmed, self._refused):
            for key in [key for key in known if key not in asked_for]:
                del known[key]
