"""The answering side of bitswap: what a peer wants, and what it gets, from a block store of the caller's."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from libp2p.bitswap.pb.bitswap_pb2 import Message

from node.causes import Cause
from node.errors import PeerError
from node.network.bitswap_peer import Correspondence, Want
from node.network.cids import digest_and_codec, prefix_of
from node.network.containment import OwnFaults
from node.network.standing import Standings

logger = logging.getLogger(__name__)

MAX_WANTS = 4096  # of one peer, waiting for an answer
ANSWER_BYTES = 1 << 20  # per message
SMALL_BLOCK = 1024  # sent at once to who only asks whether it is there
WANT_HAVE = Message.Wantlist.Have
HAVE, DONT_HAVE = Message.Have, Message.DontHave


class BlockStore(Protocol):
    """Where blocks come from; called in a worker thread."""

    def get(self, cid: bytes) -> bytes | None:
        """The block, or None if it is not here."""


class BlockAnswers:
    """Answers wants with `send`, which sends a message to a peer and raises PeerError."""

    nursery: trio.Nursery | None = None  # where answers are made; set while bitswap runs

    def __init__(
        self, send: Callable[[str, Message], Awaitable[None]], standings: Standings, faults: OwnFaults
    ) -> None:
        self._send = send
        self._standings = standings
        self._faults = faults
        self._store: BlockStore | None = None
        self._gate: Callable[[str], bool] | None = None

    def serve(self, store: BlockStore, gate: Callable[[str], bool]) -> None:
        """From now on answers with blocks of `store` whoever passes `gate`."""
        self._store, self._gate = store, gate

    def _serves(self, peer_id: str) -> bool:
        with self._faults.ours():
            return self._store is not None and self._gate is not None and self._gate(peer_id)

    def take(self, peer_id: str, peer: Correspondence, wantlist: Message.Wantlist) -> None:
        """Notes what a peer wants, and starts to answer."""
        served = self._serves(peer_id)
        if wantlist.full:
            peer.wants.clear()
        for entry in wantlist.entries:
            if entry.cancel:
                peer.wants.pop(entry.block, None)
            elif len(peer.wants) >= MAX_WANTS:
                self._standings.count(Cause.TOO_MANY_WANTS, peer_id)
            elif served or entry.sendDontHave:
                peer.wants[bytes(entry.block)] = Want(
                    bytes(entry.block), entry.wantType == WANT_HAVE, entry.sendDontHave
                )
        if peer.wants and not peer.answering and self.nursery is not None:
            peer.answering = True
            self.nursery.start_soon(self._answer, peer_id, peer)

    async def _answer(self, peer_id: str, peer: Correspondence) -> None:
        """Answers a peer's wants, in the order they came, on a stream of our own: nobody reads answers elsewhere."""
        try:
            while peer.wants:
                answer = await self._next_answer(peer_id, peer)
                if answer is not None:
                    await self._send(peer_id, answer)
        except PeerError as error:
            logger.info("%s", error)
            peer.wants.clear()
        finally:
            peer.answering = False

    async def _next_answer(self, peer_id: str, peer: Correspondence) -> Message | None:
        message = Message(wantlist=Message.Wantlist())  # older Kubo dereferences it
        size = 0
        while peer.wants and size < ANSWER_BYTES and len(message.blockPresences) < MAX_WANTS:
            want = peer.wants.pop(next(iter(peer.wants)))
            block = await self._look_up(peer_id, want.cid)
            if block is None:
                if want.say_if_not:
                    message.blockPresences.add(cid=want.cid, type=DONT_HAVE)
            elif want.only_whether and len(block) > SMALL_BLOCK:
                message.blockPresences.add(cid=want.cid, type=HAVE)
            else:
                message.payload.add(prefix=prefix_of(want.cid), data=block)
                size += len(block)
        return message if message.payload or message.blockPresences else None

    async def _look_up(self, peer_id: str, cid: bytes) -> bytes | None:
        try:
            digest_and_codec(cid)
        except PeerError as error:
            self._standings.count(Cause.BAD_WANT, peer_id, error)
            return None
        if not self._serves(peer_id) or self._store is None:
            return None
        with self._faults.ours():
            try:
                return await trio.to_thread.run_sync(self._store.get, cid)
            except OSError as error:
                logger.warning("cannot read the block %s: %s", cid.hex(), error.strerror)
                return None
