"""Frozen values that several rooms pass to each other; knows no room. Byte layouts are those of docs/protocol.md."""

from dataclasses import dataclass

UPDATE_CONTEXT = b"fl-node/update/1"
NOTED_CONTEXT = b"fl-node/update/2"  # of an announcement with a note
NOTE_LIMIT = 8192  # bytes: the steps of some 2,000 members


@dataclass(frozen=True, slots=True)
class Announcement:
    """A member's signed word that its update of a round is ready (docs/protocol.md, section 3)."""

    session_id: int
    round: int
    digest: bytes  # SHA-256 of the payload, 32 bytes
    size: int  # of the payload, bytes
    codec: str
    peer_id: str  # base58, whose key made the signature
    signature: bytes  # Ed25519, 64 bytes
    note: bytes = b""  # what the members of a coordinated session tell each other beside it; signed too

    def signed_bytes(self) -> bytes:
        """The bytes that the signature is over."""
        return announcement_bytes(self.session_id, self.round, self.digest, self.size, self.codec, self.note)


def announcement_bytes(  # the fields of an announcement, in their order
    session_id: int, round: int, digest: bytes, size: int, codec: str, note: bytes = b""
) -> bytes:
    """The bytes that a member signs when it announces an update."""
    numbers = session_id.to_bytes(8, "big") + round.to_bytes(4, "big")
    plain = numbers + digest + size.to_bytes(8, "big")
    if not note:
        return UPDATE_CONTEXT + plain + codec.encode()
    name = codec.encode()
    return NOTED_CONTEXT + plain + len(name).to_bytes(1, "big") + name + note


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that are named by their hash."""

    digest: bytes  # SHA-256, 32 bytes
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire (TCP payload, so including Noise and Yamux) exchanged with one peer since the node started."""

    bytes_in: int
    bytes_out: int

    def __add__(self, other: "Traffic") -> "Traffic":
        """Of both."""
        return Traffic(self.bytes_in + other.bytes_in, self.bytes_out + other.bytes_out)

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        """Since an earlier reading."""
        return Traffic(self.bytes_in - earlier.bytes_in, self.bytes_out - earlier.bytes_out)


OTHERS = "others"  # where the traffic of all those is added up who are no members
WEIGHT_SUM = 65_535  # what a trust row adds up to; of gradients, what it adds up to at most
ABSENT = -128  # the lag of an input that never came


@dataclass(frozen=True, slots=True)
class Input:
    """One entry of a trust row: whose update went in, with what weight (of its row's sum), how many rounds old."""

    member: int
    weight: int
    lag: int


@dataclass(frozen=True, slots=True)
class Mix:
    """What a member says of one mixing step (docs/protocol.md, section 7)."""

    round: int
    members: int  # known when the cohort was drawn
    inputs: tuple[Input, ...]  # ascending by member
    mixed_hash: bytes
    snapshot: str | None  # CID of the round's directory
    epsilon: float | None = None
