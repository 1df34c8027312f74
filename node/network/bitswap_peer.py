"""What goes on with one bitswap peer, and how its messages are read; see bitswap.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.bitswap.pb.bitswap_pb2 import Message

from node.network.containment import containing

IDLE_SECONDS = 60.0  # until our stream to a peer that asks nothing more is closed
CLOSE_SECONDS = 5.0
MAX_LATELY = 4096  # CIDs


@dataclass(frozen=True)
class Want:
    """What a peer asked for."""

    cid: bytes
    only_whether: bool
    say_if_not: bool


@dataclass
class Whether:
    """A question whether a peer has a block."""

    answered: trio.Event = field(default_factory=trio.Event)
    has: bool = False

    def answer(self, has: bool) -> None:
        """Takes the peer's word."""
        self.has = has
        self.answered.set()


@dataclass
class Correspondence:
    """What is going on with one peer."""

    wants: dict[bytes, Want] = field(default_factory=dict)
    answering: bool = False
    asked: dict[bytes, trio.Event] = field(default_factory=dict)  # CIDs that we asked for, set when answered
    whether: dict[bytes, "Whether"] = field(default_factory=dict)  # CIDs of which we only want to know whether
    asked_lately: set[bytes] = field(default_factory=set)  # answers to these may come late
    listening: int = 0  # streams of the peer's that we read
    outbound: INetStream | None = None
    turn: trio.Lock = field(default_factory=trio.Lock)
    sent_at: float = 0.0

    def remember(self, cids: Sequence[bytes]) -> None:
        """Notes that these were asked for."""
        if len(self.asked_lately) > MAX_LATELY:
            self.asked_lately.clear()
        self.asked_lately.update(cids)

    def is_idle(self, now: float) -> bool:
        """Whether nothing is going on, and has not been for a while."""
        busy = self.wants or self.answering or self.asked or self.whether or self.listening or self.turn.locked()
        return not busy and now - self.sent_at > IDLE_SECONDS


async def read_size(stream: INetStream) -> int:
    """The varint before a message; more than fits in 35 bits is cut, and too large anyway."""
    size = 0
    for shift in range(0, 35, 7):
        (byte,) = await stream.read(1)
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size
    return size


async def read_exactly(stream: INetStream, size: int) -> bytes:
    """The next `size` bytes."""
    data = bytearray()
    while len(data) < size:
        data += await stream.read(size - len(data))
    return bytes(data)


async def finish(stream: INetStream, peer_id: str) -> None:
    """Ends a stream that is of no more use."""
    with containing("closing an idle stream", peer_id), trio.move_on_after(CLOSE_SECONDS):
        await stream.reset()


def question(cids: Sequence[bytes], *, cancel: bool = False, only_whether: bool = False) -> Message:
    """The message that asks for blocks, or only whether they are there; or takes the question back."""
    wantlist = Message.Wantlist()
    kind = Message.Wantlist.Have if only_whether else Message.Wantlist.Block
    for cid in cids:
        wantlist.entries.add(block=cid, priority=1, cancel=cancel, wantType=kind, sendDontHave=not cancel)
    return Message(wantlist=wantlist)
