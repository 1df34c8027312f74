"""What a session needs of the other rooms, as Protocols: tests hand it fakes, the daemon hands it the real parts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from node.messages import Announcement, Input, Mix, Traffic

Payload = bytes | Path  # large payloads stay on disk
FetchEarlier = Callable[[bytes, int], Awaitable[Payload | None]]
"""Gets SHA-256 and bytes of a payload from the sender of the newer one; None if it does not give it."""


def payload_bytes(payload: Payload) -> bytes:
    """The content, in memory."""
    return payload.read_bytes() if isinstance(payload, Path) else payload


def payload_size(payload: Payload) -> int:
    """Bytes of the content, which stays where it is."""
    return payload.stat().st_size if isinstance(payload, Path) else len(payload)


@dataclass(frozen=True, slots=True)
class Trained:
    """An encoded update and what was seen while it was made."""

    payload: Payload
    digest: bytes
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of the payload, bytes."""
        return payload_size(self.payload)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mixing step's result: the row that was used, and the mixed parameters in the float32 payload format."""

    inputs: tuple[Input, ...]
    payload: bytes
    digest: bytes
    metrics: Mapping[str, float] = field(default_factory=dict)
    epsilon: float | None = None  # spent so far of a privacy budget


@dataclass(frozen=True, slots=True)
class Contribution:
    """A verified payload of a peer, of a given round."""

    member: int
    round: int
    payload: Payload


class Learner(Protocol):
    """Training, weighing and mixing; owns the parameters. Every method may take long and must not block the loop."""

    async def train(self, round: int) -> Trained:
        """The update of a round: a pure function of the state and the round, so a repeat gives the same bytes."""

    async def repeat(self, round: int, committed: Trained) -> Trained:
        """The update of a round that was trained before a restart, the learner's state as after that training."""

    async def accepts(self, payload: Payload) -> str | None:
        """None for a payload that decodes to finite parameters of the right shapes, else what is wrong with it."""

    async def mix(self, round: int, own: Payload, others: Sequence[Contribution]) -> Mixed:
        """Weighs and mixes; the mixed parameters become the learner's own."""


class Earlier(Protocol):
    """The payloads that later ones build on, for codecs that send differences. Without such, nothing is ever kept."""

    async def complete(self, member: int, payload: Payload, fetch: FetchEarlier) -> bool:
        """Fetches what a payload builds on and is not here, newest first; False if some of it is not to be had.

        True, too, for a payload that is none of the codec: decoding tells what is wrong with it.
        """

    async def settle(self, member: int, payload: Payload | None) -> None:
        """Keeps a member's payload and what it builds on, instead of the one before; None: forgets what was fetched."""

    async def builds_on(self, payload: Payload) -> Sequence[bytes]:
        """The payloads that one of ours builds on, newest first."""


class NothingEarlier:
    """`Earlier` of codecs whose payloads stand alone."""

    async def complete(self, _member: int, _payload: Payload, _fetch: FetchEarlier) -> bool:
        """Nothing is missing."""
        return True

    async def settle(self, _member: int, _payload: Payload | None) -> None:
        """Keeps nothing."""

    async def builds_on(self, _payload: Payload) -> Sequence[bytes]:
        """None."""
        return ()


class Peers(Protocol):
    """The network, as far as a session sees it."""

    @property
    def peer_id(self) -> str:
        """This node's own id."""

    def connected(self) -> frozenset[str]:
        """Peers that are connected now."""

    async def announce(self, announcement: Announcement) -> None:
        """Tells everybody; never raises for a peer's fault."""

    async def ask(self, peer_id: str, since: int = 0) -> None:
        """Asks a peer what was announced from round `since` on; news come the usual way. Never raises for its fault."""

    async def tell(self, peer_id: str, announcement: Announcement) -> None:
        """Tells one peer in person; when it returns, the peer has heard it. Raises PeerError."""

    async def fetch(self, announcement: Announcement, holders: Sequence[str], deadline: float) -> Payload:
        """The announced bytes, verified; `deadline` in seconds. Raises PeerError."""

    def traffic(self) -> Mapping[str, Traffic]:
        """Wire bytes per peer since the start."""

    def sign(self, message: bytes) -> bytes:
        """The node's Ed25519 signature."""


class Directory(Protocol):
    """The session's members as far as this node knows the ledger."""

    @property
    def own_index(self) -> int:
        """This member's index."""

    def count(self) -> int:
        """Members that ever joined: indices are 0 to count − 1."""

    def peer_of(self, index: int) -> str | None:
        """The peer id of an active member, None for one that left or is not known."""

    def index_of(self, peer_id: str) -> int | None:
        """The index of an active member, None for strangers."""


class Records(Protocol):
    """The ledger's outbox: when a call returns, the record is on disk and will reach the chain."""

    async def commit(self, round: int, digest: bytes, mix: Mix | None) -> None:
        """Commits to a round's update; repeating the same record is harmless."""

    async def close(self, round: int, mix: Mix) -> None:
        """Records the last mix without a further update."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a member is: what survives a crash, besides the learner's own state."""

    next_round: int  # to train
    pending_mix: Mix | None  # of round next_round − 1, not yet in a record
    committed: Trained | None = None  # update of next_round that may already have been promised
    promised: bytes | None = None  # its SHA-256, also where the payload is lost


class Journal(Protocol):
    """The node's disk. Every write is atomic: after kill -9 the old or the new state is there."""

    async def load(self) -> Progress:
        """Where to go on; the first round for an empty disk."""

    async def trained(self, round: int, trained: Trained) -> Trained:
        """Keeps an update's payload, before it is committed, so that a restart reveals the same bytes; as kept."""

    async def announced(self, announcement: Announcement) -> None:
        """Keeps a signed announcement, so that peers that come later can ask for it."""

    async def mixed(self, mix: Mix) -> None:
        """Keeps the learner's state and the mix: the round is over."""

    async def left_out(self, round: int) -> None:
        """Notes that a round is over without a mix; the learner's state is kept."""

    async def closed(self) -> None:
        """Notes that the last mix is in a closing record, so that no later record repeats it."""


class Snapshots(Protocol):
    """IPFS, as far as a session sees it."""

    async def add(self, round: int, files: Mapping[str, Payload]) -> str | None:
        """The CID of the pinned directory, None where IPFS failed within its deadline (a warning was logged)."""
