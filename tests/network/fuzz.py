"""Decoders of what strangers send, as functions of bytes; and a coverage-guided fuzzer for them (atheris).

`python -m tests.network.fuzz TARGET SECONDS [FOLDER]` starts from corpus/TARGET, which the tests replay, and looks for
inputs that make a decoder raise anything but what it says it raises. What reaches new code goes to FOLDER, or else to
the corpus.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["node.network", "multiaddr", "base58"]):
        import node.network.service  # noqa: F401

import trio
from google.protobuf.message import DecodeError
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message as RendezvousMessage
from libp2p.exceptions import BaseLibp2pError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message as KademliaMessage
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from node.errors import IdentityError, NetworkError, PeerError
from node.network import wire_pb2
from node.network.addresses import parse_peer_address
from node.network.bitswap import Bitswap
from node.network.bitswap_answers import MAX_WANTS
from node.network.bitswap_peer import Whether
from node.network.cids import cid_of, digest_and_codec
from node.network.containment import OwnFaults
from node.network.delimited import decode_peer, receive
from node.network.identity import public_key_of
from node.network.members_pubsub import MembersPubsub
from node.network.observed import MAX_ADDRESSES, places
from node.network.standing import Standings
from node.network.wire import MAX_CHUNK, Frames, decode, read_announcement
from node.network.yamux import BufferBudget, Yamux, YamuxLimits
from node.network.yamux_frames import FrameParser, Violation

ASKED = cid_of(bytes([1, 0x55, 0x12, 0x20]), b"block")
UNREADABLE = (BaseLibp2pError, DecodeError)
CORPUS = Path(__file__).parent / "corpus"


class Source:
    """A stream with a certain content."""

    is_closed = False

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def read(self, n: int | None = None) -> bytes:
        data, self.content = self.content[:n], self.content[n or len(self.content) :]
        if not data:
            raise StreamEOF
        return data


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def request(data: bytes) -> None:
    with suppress(PeerError):
        finish(Frames(Source(data), "peer").receive(wire_pb2.Request, 1000))
    with suppress(PeerError):
        decode(wire_pb2.Request, data, "peer")


def reply(data: bytes) -> None:
    with suppress(PeerError):
        for each in decode(wire_pb2.Reply, data, "peer").announcements.announcements:
            read_announcement(each)


def announcement(data: bytes) -> None:
    with suppress(PeerError):
        read_announcement(decode(wire_pb2.Announcement, data, "peer"))


def chunk(data: bytes) -> None:
    with suppress(PeerError):
        assert 0 < finish(Frames(Source(data), "peer").chunk_size()) <= MAX_CHUNK


def cid(data: bytes) -> None:
    with suppress(PeerError):
        digest_and_codec(data)
    with suppress(PeerError):
        cid_of(data, b"block")


def address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with suppress(NetworkError):
        assert str(parse_peer_address(text))
    with suppress(IdentityError):
        public_key_of(text)


def peers(data: bytes) -> None:
    """What trackers and the directory say of peers."""
    with suppress(DecodeError):
        message = RendezvousMessage()
        message.ParseFromString(data)
        decode_peer(message.register.peer.id, message.register.peer.addrs)
    with suppress(DecodeError):
        directory = KademliaMessage()
        directory.ParseFromString(data)
        for each in [*directory.closerPeers, *directory.providerPeers]:
            decode_peer(each.id, each.addrs)


def punch(data: bytes) -> None:
    """Where a relay or a peer says that somebody can be dialed."""
    with suppress(DecodeError):
        message = HolePunch()
        message.ParseFromString(data)
        assert len(places(message.ObsAddrs)) <= MAX_ADDRESSES
    places([data])


def bitswap(data: bytes) -> None:
    """Messages on a stream; one block of theirs was asked for, and of one whether it is there."""
    standings = Standings(lambda: 0.0)
    peers = Bitswap(None, standings, OwnFaults())  # type: ignore[arg-type]
    peer = peers._peers["peer"]
    peer.asked[ASKED] = trio.Event()
    peer.whether[ASKED] = Whether()
    with suppress(StreamEOF):
        finish(peers._listen(Source(data), "peer"))  # type: ignore[arg-type]
    assert len(peer.wants) <= MAX_WANTS
    assert peers._received in ({}, {ASKED: b"block"})
    assert standings.refused or not standings.scores()


def relay(data: bytes) -> None:
    """What relays, those who use them, and the other side of an identify say."""
    for kind in (HopMessage, StopMessage, Identify, HolePunch):
        with suppress(*UNREADABLE):
            message = finish(receive(Source(data), kind))  # type: ignore[type-var]
            if kind is Identify:
                assert len(places([message.observed_addr])) <= 1
            elif kind is not HolePunch:
                assert len(str(ID(message.peer.id[:64]))) < 100


def gossip(data: bytes) -> None:
    with suppress(DecodeError):
        rpc = rpc_pb2.RPC()
        rpc.ParseFromString(data)
        MembersPubsub._sifted(SimpleNamespace(_topic="topic"), rpc.control)  # type: ignore[arg-type]


def yamux(data: bytes) -> None:
    """The first byte says in which pieces the rest arrives."""
    secured = SimpleNamespace(is_initiator=True)
    budget = BufferBudget(1 << 20)
    connection = Yamux(secured, ID(b"peer"), 1000, YamuxLimits(max_streams=4), budget)  # type: ignore[arg-type]
    step = 1 + (data[0] if data else 0)
    parser = FrameParser(connection._frame)
    with suppress(Violation):
        for start in range(1, len(data), step):
            parser.feed(data[start : start + step])
    assert 0 <= budget.used == connection.buffered <= len(data)
    assert len(connection.streams) <= 4


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (request, reply, announcement, chunk, cid, address, peers, punch, bitswap, relay, gossip, yamux)
}


if __name__ == "__main__":
    from tests.fuzzing import fuzz

    fuzz(TARGETS, CORPUS)
