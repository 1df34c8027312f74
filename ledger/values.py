"""Frozen values that callers exchange with the ledger; knows neither the chain nor byte layouts (see payload)."""

from dataclasses import dataclass, field

ABSENT = -128
"""The lag of an input that was not there in time; its weight is 0."""

WEIGHT_SUM = 65535
"""What the weights of a trust row add up to; those of gradients say proportions, and may add up to less."""


@dataclass(frozen=True, slots=True)
class Input:
    """What one member gave to a mix: its index, its 16-bit weight (of the row's sum), how many rounds old it was."""

    member: int
    weight: int
    lag: int = 0


@dataclass(frozen=True, slots=True)
class Mix:
    """One mixing step as recorded: `members` known at the cohort's draw, inputs in ascending order of index."""

    members: int
    inputs: tuple[Input, ...]
    mixed_hash: bytes  # SHA-256 of the mixed parameters, 32 bytes
    snapshot: bytes | None = None  # SHA-256 digest of the snapshot's root block, 32 bytes
    epsilon: float | None = None  # privacy budget spent so far; recorded in millionths, rounded up


@dataclass(frozen=True, slots=True)
class Record:
    """What a member writes for a round: its update's hash, and the mix of its previous round.

    A closing record has no `update_hash` and the round after the member's last one.
    """

    session_id: int
    round: int
    update_hash: bytes | None
    mix: Mix | None = None

    @property
    def closing(self) -> bool:
        """Whether this record carries the last mix and commits to no update."""
        return self.update_hash is None


@dataclass(frozen=True, slots=True)
class Step:
    """What a member said of one round: the update it committed to, and the mix that its next record carries.

    `fault` says what is wrong with a record in itself, such as a mix that is none; it is the member's own doing.
    """

    member: int
    account: str
    round: int
    update_hash: bytes  # 32 bytes; zeros in a closing record that carries the mix of no round
    mix: Mix | None  # None until the next record, and where that has none
    block: int  # of the commitment
    tx_hash: str
    mixed_block: int | None = None  # of the record with the mix
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedMix:
    """That a member recorded the mix of a round, and the digest of the snapshot that it names, if any."""

    member: int
    round: int
    snapshot: bytes | None


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session as the contract knows it."""

    session_id: int
    creator: str
    state: str  # "open", "paused" or "closed"
    admission: bool  # only accounts that the creator admitted may join
    member_count: int
    held_count: int
    created_block: int
    config_hash: bytes


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member as the events tell it. `bound` says whether its peer key really signed the binding."""

    index: int
    account: str  # checksummed address
    peer_key: bytes  # raw Ed25519 public key, 32 bytes
    binding: bytes  # Ed25519 signature, 64 bytes
    addresses: tuple[str, ...]  # multiaddrs
    active: bool
    standing: str  # "active", "left" or "removed"
    joined_block: int
    bound: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """What an account signs with its two keys to join: see docs/protocol.md, section 2."""

    peer_key: bytes
    binding: bytes
    addresses: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Head:
    """A member's slot, taken apart: 28 bytes of hash chain, the next round, and whether it may record at present."""

    slot: int
    chain: bytes
    next_round: int
    held: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction: its hash (0x…), block, gas used and the price paid per gas, in wei."""

    tx_hash: str
    block: int
    gas_used: int
    gas_price: int
