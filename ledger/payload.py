"""The bytes that members, contract and auditor agree on (docs/protocol.md, sections 1, 2 and 7). No chain here."""

import math

from eth_utils.address import to_canonical_address
from eth_utils.crypto import keccak
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ledger.errors import PayloadError
from ledger.values import ABSENT, WEIGHT_SUM, Head, Input, Membership, Mix, Record

BINDING_CONTEXT = b"fl-node/member/1"
HOLD = 1 << 31
LARGEST_ROUND = (1 << 31) - 2
LARGEST_INDEX = 65535
NO_HASH = bytes(32)

_SNAPSHOT, _EPSILON = 1, 2
_MILLIONTHS = 1_000_000
_PREFIX, _HASH, _EPSILON_BYTES, _INPUT = 3, 32, 4, 5


def encode_mix(mix: Mix | None) -> bytes:
    """The bytes of a mix, empty for none.

    Raises:
        PayloadError: hashes of the wrong length, weights that can't be a row, inputs out of order or range.

    """
    if mix is None:
        return b""
    _check_mix(mix)
    flags = (_SNAPSHOT if mix.snapshot is not None else 0) | (_EPSILON if mix.epsilon is not None else 0)
    head = bytes([flags]) + mix.members.to_bytes(2, "big") + mix.mixed_hash + (mix.snapshot or b"")
    if mix.epsilon is not None:
        head += _millionths(mix.epsilon).to_bytes(_EPSILON_BYTES, "big")
    return head + b"".join(
        i.member.to_bytes(2, "big") + i.weight.to_bytes(2, "big") + i.lag.to_bytes(1, "big", signed=True)
        for i in mix.inputs
    )


def decode_mix(payload: bytes) -> Mix | None:
    """The mix that the bytes stand for, None for empty ones; `encode_mix` of it gives the same bytes.

    Raises:
        PayloadError: on anything that `encode_mix` would not have written.

    """
    if not payload:
        return None
    flags = payload[0]
    if flags > _SNAPSHOT | _EPSILON:
        raise PayloadError(f"a mix has unknown flags {flags:#04x}: it was written by a later version, update fl-node")
    at = _PREFIX + _HASH
    end = at + (_HASH if flags & _SNAPSHOT else 0) + (_EPSILON_BYTES if flags & _EPSILON else 0)
    if len(payload) <= end or (len(payload) - end) % _INPUT or len(payload) - end > _INPUT * (LARGEST_INDEX + 1):
        raise PayloadError(f"a mix of {len(payload)} bytes with flags {flags:#04x} is truncated or has trailing bytes")
    snapshot = payload[at : at + _HASH] if flags & _SNAPSHOT else None
    spent = int.from_bytes(payload[end - _EPSILON_BYTES : end], "big") if flags & _EPSILON else None
    mix = Mix(
        members=int.from_bytes(payload[1:3], "big"),
        inputs=tuple(_decode_input(payload[i : i + _INPUT]) for i in range(end, len(payload), _INPUT)),
        mixed_hash=payload[_PREFIX : _PREFIX + _HASH],
        snapshot=snapshot,
        epsilon=None if spent is None else spent / _MILLIONTHS,
    )
    _check_mix(mix)
    return mix


def _decode_input(part: bytes) -> Input:
    lag = int.from_bytes(part[4:5], "big", signed=True)
    return Input(member=int.from_bytes(part[:2], "big"), weight=int.from_bytes(part[2:4], "big"), lag=lag)


def _millionths(epsilon: float) -> int:
    if not 0 <= epsilon < 2**32 / _MILLIONTHS:
        raise PayloadError(f"an epsilon of {epsilon} can't be recorded: it must be within 0 and 4294.967295")
    # a value that came from millionths must go back to the same ones, so allow for the division's rounding error
    return math.ceil(round(epsilon * _MILLIONTHS, 4))


def _check_mix(mix: Mix) -> None:
    _check_hash("the mixed hash", mix.mixed_hash)
    if mix.snapshot is not None:
        _check_hash("the snapshot's digest", mix.snapshot)
    if not 1 <= mix.members <= LARGEST_INDEX:
        raise PayloadError(f"a mix among {mix.members} members can't be: they are 1 to {LARGEST_INDEX}")
    last, total = -1, 0
    for one in mix.inputs:
        _check_input(one, last)
        last, total = one.member, total + one.weight
    if not 1 <= total <= WEIGHT_SUM:  # which sum it must be is the session's: see the audit
        raise PayloadError(f"the weights of a mix add up to {total}, not to 1 to {WEIGHT_SUM}: quantise the trust row")


def _check_input(one: Input, last: int) -> None:
    if not last < one.member <= LARGEST_INDEX:
        raise PayloadError(
            f"input {one.member} comes after {last}: inputs go in ascending order, up to {LARGEST_INDEX}"
        )
    if not 0 <= one.weight <= WEIGHT_SUM or not ABSENT <= one.lag <= 127:
        raise PayloadError(f"weight {one.weight} or lag {one.lag} of input {one.member} is out of range")
    if one.lag == ABSENT and one.weight:
        raise PayloadError(f"input {one.member} was absent but has weight {one.weight}: an absent peer's weight is 0")


def _check_hash(what: str, value: bytes) -> None:
    if len(value) != _HASH:
        raise PayloadError(f"{what} has {len(value)} bytes instead of {_HASH}: {value.hex()[:80]}")


def check_record(record: Record) -> None:
    """Nothing, if the record can be written.

    Raises:
        PayloadError: on a session id, round or hash out of range, or a closing record without a mix.

    """
    if not 0 <= record.session_id < 2**64 or not 0 <= record.round <= LARGEST_ROUND:
        raise PayloadError(f"session {record.session_id} or round {record.round} is out of range")
    if record.update_hash is None and record.mix is None:
        raise PayloadError(f"the closing record of round {record.round} carries no mix: there is nothing to record")
    if record.update_hash is not None:
        _check_hash("the update hash", record.update_hash)
        if record.update_hash == NO_HASH:
            raise PayloadError("an update hash of zeros marks a closing record: use update_hash=None for that")


def step_of(session_id: int, round: int) -> int:
    """What the contract's `record` takes for session and round: session id (8) || round (4), as a number."""
    return session_id << 32 | round


def session_of_step(step: int) -> int:
    """The session id in what `step_of` gives."""
    return step >> 32


def round_of_step(step: int) -> int:
    """The round in what `step_of` gives."""
    return step & 0xFFFFFFFF


def entry_of(account: str, record: Record) -> bytes:
    """What the event logs and the chain hashes: account (20) || round (4) || update hash (32) || mix."""
    check_record(record)
    fixed = to_canonical_address(account) + record.round.to_bytes(4, "big")
    return fixed + (record.update_hash or NO_HASH) + encode_mix(record.mix)


def session_id_of(creator: str, config_hash: bytes) -> int:
    """The id of the session that `creator` creates with the file of this SHA-256."""
    _check_hash("the config hash", config_hash)
    return int.from_bytes(keccak(to_canonical_address(creator) + config_hash)[:8], "big")


def binding_message(chain_id: int, contract: str, session_id: int, account: str) -> bytes:
    """What a member's libp2p key signs, so that its peer id and its Ethereum account belong together."""
    numbers = chain_id.to_bytes(8, "big") + to_canonical_address(contract) + session_id.to_bytes(8, "big")
    return BINDING_CONTEXT + numbers + to_canonical_address(account)


def verify_binding(peer_key: bytes, binding: bytes, message: bytes) -> bool:
    """Whether the raw Ed25519 key made the signature over `binding_message(…)`; False for malformed ones too.

    By libsodium, which takes no key of small order: such a key, which nobody owns, has signatures of every message.
    """
    try:
        VerifyKey(peer_key).verify(message, binding)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def first_slot(account: str, session_id: int, index: int, membership: Membership) -> int:
    """The slot of a member that just joined: its chain begins with its peer key and binding."""
    joined = to_canonical_address(account) + session_id.to_bytes(8, "big") + index.to_bytes(2, "big")
    return _head(keccak(bytes(32) + joined + membership.peer_key + membership.binding))


def next_slot(slot: int, entry: bytes) -> int:
    """The slot after the record of `entry_of(…)`; the hold bit is not part of the chain and must be cleared first.

    Source: docs/protocol.md, section 7.
    """
    round_number, closing = int.from_bytes(entry[20:24], "big"), entry[24:56] == NO_HASH
    return _head(keccak(slot.to_bytes(32, "big") + entry)) | (round_number if closing else round_number + 1)


def head_of(slot: int) -> Head:
    """A slot taken apart."""
    return Head(slot=slot, chain=(slot >> 32).to_bytes(28, "big"), next_round=slot & (HOLD - 1), held=bool(slot & HOLD))


def _head(digest: bytes) -> int:
    return int.from_bytes(digest[:28], "big") << 32
