"""Records as their senders' own signed words, which anybody can check offline: the transactions that carried them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_account._utils.legacy_transactions import Transaction as LegacyTransaction
from eth_account.typed_transactions import TypedTransaction
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError
from hexbytes import HexBytes
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

from ledger.abi import selector_of, topic_of
from ledger.chain import Chain, checksummed
from ledger.errors import PayloadError
from ledger.events import RECORDED, fetch_logs, parse_logs, session_topic
from ledger.payload import round_of_step, session_of_step

_LEGACY = 0xC0  # the first byte of a list in RLP; typed transactions begin with their type (EIP-2718)
_CHAIN_ID_OFFSET = 35  # of v (EIP-155)
_MALFORMED = (RLPException, ValidationError, BadSignature, DecodingError, ValueError, TypeError, LookupError)


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a record commits to, and the transaction that says so."""

    account: str  # with its checksum
    round: int
    update_hash: bytes
    tx_hash: str


@dataclass(frozen=True, slots=True)
class Words:
    """What a signed transaction says: who signed it, for which contract, and the update hashes by session and round."""

    account: str
    chain_id: int | None  # None: signed as before EIP-155, for any chain
    contract: str
    hashes: dict[tuple[int, int], bytes]


def commitments(chain: Chain, address: str, session_id: int, first: int, last: int) -> Iterator[Commitment]:
    """What was committed to in blocks `first` to `last`, as the node tells it; closing records are left out."""
    topics = [topic_of(RECORDED), session_topic(session_id)]
    for _, logs in fetch_logs(chain, address, topics, first, last):
        for event in parse_logs(logs, session_id):
            update_hash = event.body[24:56]
            if any(update_hash):
                account, round = checksummed(f"0x{event.account}"), int.from_bytes(event.body[20:24], "big")
                yield Commitment(account, round, update_hash, event.tx_hash)


def words_of(transaction: bytes) -> Words:
    """What a transaction of any type that carries records says, from its bytes alone.

    Raises:
        PayloadError: it is none, or is not signed.

    """
    try:
        account = str(Account.recover_transaction(HexBytes(transaction)))
        fields = _fields(transaction)
        contract = checksummed("0x" + bytes(fields["to"]).hex())
        return Words(account, fields["chainId"], contract, _hashes(bytes(fields["data"])))
    except _MALFORMED as error:
        what = f"{str(error)[:80] or type(error).__name__}"
        raise PayloadError(f"the transaction {transaction[:16].hex()}… is no signed record: {what}") from error


def _fields(transaction: bytes) -> dict[str, Any]:
    if transaction[0] < _LEGACY:
        return dict(TypedTransaction.from_bytes(HexBytes(transaction)).as_dict())
    fields = LegacyTransaction.from_bytes(HexBytes(transaction)).as_dict()
    v = int(fields["v"])
    return {**fields, "chainId": (v - _CHAIN_ID_OFFSET) // 2 if v >= _CHAIN_ID_OFFSET else None}


def _hashes(data: bytes) -> dict[tuple[int, int], bytes]:
    if data[:4] == selector_of("record"):
        step, update_hash, _ = decode(["uint96", "bytes32", "bytes"], data[4:])
        return {(session_of_step(step), round_of_step(step)): update_hash} if any(update_hash) else {}
    if data[:4] == selector_of("recordAfter"):
        session_id, _, entries = decode(["uint64", "uint256", "(uint32,bytes32,bytes)[]"], data[4:])
        return {(session_id, round): update_hash for round, update_hash, _ in entries if any(update_hash)}
    raise ValueError("it calls something else")
