"""IPFS blocks over bitswap 1.1 and 1.2 (https://specs.ipfs.tech/bitswap-protocol/), to and from any IPFS peer.

py-libp2p 0.8.1's own answers on the asker's stream, which Kubo and js-ipfs never read, sends the block to who asks
whether it is there, and stores what nobody asked for; this replaces it. Knows no files and pins nothing: the store is
the caller's, and a block is checked against its CID before it is handed out.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.bitswap.pb.bitswap_pb2 import Message
from libp2p.exceptions import BaseLibp2pError
from libp2p.utils.varint import encode_uvarint

from node.causes import Cause
from node.errors import PeerError
from node.network.bitswap_answers import DONT_HAVE, HAVE, BlockAnswers, BlockStore
from node.network.bitswap_peer import (
    IDLE_SECONDS,
    Correspondence,
    Whether,
    finish,
    question,
    read_exactly,
    read_size,
)
from node.network.cids import cid_of, digest_and_codec
from node.network.containment import OwnFaults, containing
from node.network.standing import Standings

logger = logging.getLogger(__name__)

PROTOCOLS = ("/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0")
MAX_BLOCK = 2 << 20  # bytes, as the specification says
MAX_MESSAGE = 4 << 20  # from a peer that we asked for blocks
MAX_QUESTION = 256 * 1024  # from one that we did not
MAX_STREAMS_PER_PEER = 8
MAX_ASKED = 64  # blocks asked of one peer at a time
WRITE_SECONDS = 60.0
UNSOLICITED_PENALTY = 0.5

OpenStream = Callable[[str, Sequence[str]], Awaitable[INetStream]]


class Bitswap:
    """Serves blocks of the caller's store, and fetches blocks of others."""

    def __init__(self, open_stream: OpenStream, standings: Standings, faults: OwnFaults) -> None:
        self._open_stream = open_stream
        self._standings = standings
        self._answers = BlockAnswers(self._send, standings, faults)
        self._nursery: trio.Nursery | None = None
        self._peers: defaultdict[str, Correspondence] = defaultdict(Correspondence)
        self._received: dict[bytes, bytes] = {}
        self._waiting: Counter[bytes] = Counter()  # how many fetches wait for a CID

    def serve(self, store: BlockStore, gate: Callable[[str], bool]) -> None:
        """From now on answers with blocks of `store` whoever passes `gate`."""
        self._answers.serve(store, gate)

    async def run(self) -> None:
        """Carries the work, and closes streams that are idle, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = self._answers.nursery = nursery
            while True:
                await trio.sleep(IDLE_SECONDS / 2)
                for peer_id, peer in list(self._peers.items()):
                    if peer.is_idle(trio.current_time()):
                        self._peers.pop(peer_id)
                        if peer.outbound is not None:
                            nursery.start_soon(finish, peer.outbound, peer_id)

    # Asking

    async def fetch(self, cids: Iterable[bytes], peers: Sequence[str], deadline: float) -> Mapping[bytes, bytes]:
        """The blocks that `peers` gave until `deadline`, by CID, each checked against it.

        The CIDs are spread over the peers; what a peer does not have, or not soon, the next is asked for. What nobody
        gave is not in the mapping. Raises PeerError for something that is no CID.
        """
        patience = max(0.1, (deadline - trio.current_time()) / max(1, len(peers)))
        wanted = list(dict.fromkeys(cids))
        for cid in wanted:
            digest_and_codec(cid)
        found: dict[bytes, bytes] = {}
        self._waiting.update(wanted)
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = deadline
                for start in range(len(peers)):
                    share = wanted[start :: len(peers)]
                    order = [*peers[start:], *peers[:start]]
                    nursery.start_soon(self._fetch_share, share, order, patience, found)
        finally:
            self._waiting.subtract(wanted)
            for cid in wanted:
                if self._waiting[cid] <= 0:
                    del self._waiting[cid]
                    self._received.pop(cid, None)
        return found

    async def _fetch_share(
        self, share: Sequence[bytes], peers: Sequence[str], patience: float, found: dict[bytes, bytes]
    ) -> None:
        for peer_id in peers:
            missing = [cid for cid in share if cid not in found]
            for start in range(0, len(missing), MAX_ASKED):
                batch = missing[start : start + MAX_ASKED]
                try:
                    await self._ask(peer_id, batch, patience)
                except PeerError as error:
                    logger.info("%s", error)
                    break
                finally:
                    found.update({cid: self._received[cid] for cid in batch if cid in self._received})

    async def _ask(self, peer_id: str, batch: Sequence[bytes], patience: float) -> None:
        """Asks a peer and waits until every CID of `batch` is answered, one way or the other."""
        peer = self._peers[peer_id]
        unasked = [cid for cid in batch if cid not in self._received]
        events = {cid: peer.asked.setdefault(cid, trio.Event()) for cid in unasked}
        peer.remember(unasked)
        try:
            with trio.move_on_after(patience) as scope:
                await self._send(peer_id, question(unasked, cancel=False))
                for event in events.values():
                    await event.wait()
            if scope.cancelled_caught:
                with trio.move_on_after(1):
                    await self._send(peer_id, question(unasked, cancel=True))
                raise PeerError(f"peer {peer_id} left questions for blocks unanswered for {patience:.0f} s")
        finally:
            for cid in unasked:
                peer.asked.pop(cid, None)

    async def has(self, peer_id: str, cids: Iterable[bytes], seconds: float) -> frozenset[bytes]:
        """Which of these blocks a peer says that it has, as far as it answers in time. Raises PeerError."""
        wanted = list(dict.fromkeys(cids))
        for cid in wanted:
            digest_and_codec(cid)
        whether = self._peers[peer_id].whether
        found: set[bytes] = set()
        with trio.move_on_after(seconds):
            for start in range(0, len(wanted), MAX_ASKED):
                batch = wanted[start : start + MAX_ASKED]
                asked = {cid: whether.setdefault(cid, Whether()) for cid in batch}
                self._peers[peer_id].remember(batch)
                try:
                    await self._send(peer_id, question(batch, only_whether=True))
                    for one in asked.values():
                        await one.answered.wait()
                finally:
                    found.update(cid for cid, one in asked.items() if one.has)
                    for cid in batch:
                        whether.pop(cid, None)
        return frozenset(found)

    # Listening

    async def handle(self, stream: INetStream) -> None:
        """Reads a peer's stream until it ends."""
        peer_id = str(stream.muxed_conn.peer_id)
        peer = self._peers[peer_id]
        if peer.listening >= MAX_STREAMS_PER_PEER:
            self._standings.penalize(peer_id, 1.0, Cause.TOO_MANY_BLOCK_STREAMS)
            return
        peer.listening += 1
        try:
            await self._listen(stream, peer_id)
        finally:
            peer.listening -= 1

    async def _listen(self, stream: INetStream, peer_id: str) -> None:
        while True:
            size = await read_size(stream)
            peer = self._peers[peer_id]
            if size > (MAX_MESSAGE if peer.asked else MAX_QUESTION):
                self._standings.penalize(peer_id, 10.0, Cause.OVERSIZED_BLOCK_MESSAGE, f"{size} bytes")
                return
            message = Message()
            try:
                message.ParseFromString(await read_exactly(stream, size))
            except DecodeError as error:
                self._standings.penalize(peer_id, 10.0, Cause.BAD_BLOCK_MESSAGE, error)
                return
            self._take_blocks(peer_id, peer, message)
            self._answers.take(peer_id, peer, message.wantlist)

    def _take_blocks(self, peer_id: str, peer: Correspondence, message: Message) -> None:
        asked = peer.asked
        for block in message.payload:
            try:
                cid = cid_of(block.prefix, block.data)
            except PeerError as error:
                self._standings.penalize(peer_id, UNSOLICITED_PENALTY, Cause.BAD_BLOCK, error)
                continue
            if cid in peer.whether:  # a small block is sent instead of the word
                peer.whether[cid].answer(True)
                if cid not in asked:
                    continue
            if cid not in asked or len(block.data) > MAX_BLOCK:
                self._surplus(peer_id, late=cid in peer.asked_lately)
                continue
            self._received[cid] = block.data
            asked[cid].set()
        for presence in message.blockPresences:
            if presence.type == DONT_HAVE and presence.cid in asked:
                asked[presence.cid].set()
            if presence.type in (HAVE, DONT_HAVE) and presence.cid in peer.whether:
                peer.whether[presence.cid].answer(presence.type == HAVE)

    def _surplus(self, peer_id: str, *, late: bool) -> None:
        if late:
            self._standings.count(Cause.LATE_BLOCK, peer_id)
        else:
            self._standings.penalize(peer_id, UNSOLICITED_PENALTY, Cause.UNSOLICITED_BLOCK)

    # Sending

    async def _send(self, peer_id: str, message: Message) -> None:
        """Sends on the stream that we keep to a peer; one that broke meanwhile is opened again, once."""
        data = message.SerializeToString()
        peer = self._peers[peer_id]
        async with peer.turn:
            for attempt in (1, 2):
                try:
                    with trio.fail_after(WRITE_SECONDS):
                        if peer.outbound is None:
                            await self._open(peer_id, peer)
                        assert peer.outbound is not None
                        await peer.outbound.write(encode_uvarint(len(data)) + data)
                        peer.sent_at = trio.current_time()
                        return
                except (BaseLibp2pError, trio.TooSlowError) as error:
                    stream, peer.outbound = peer.outbound, None
                    if stream is not None:
                        await stream.reset()
                    if attempt == 2:
                        raise PeerError(f"peer {peer_id} takes no bitswap messages ({error}); left alone") from error

    async def _open(self, peer_id: str, peer: Correspondence) -> None:
        stream = await self._open_stream(peer_id, PROTOCOLS)
        peer.outbound = stream
        if self._nursery is not None:
            self._nursery.start_soon(self._read_answers, stream, peer_id)

    async def _read_answers(self, stream: INetStream, peer_id: str) -> None:
        """Reads our own stream to a peer: py-libp2p answers there."""
        with containing("bitswap answers", peer_id):
            await self._listen(stream, peer_id)
