"""A mined transaction's bytes as its sender signed them, from any node: the hash says that they are the right ones."""

from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak

from ledger.chain import Chain
from ledger.errors import LedgerError, PayloadError

_LARGEST = 66  # characters of a quantity of 256 bits
_PRICES = {0: ("gasPrice",), 1: ("gasPrice",), 2: ("maxPriorityFeePerGas", "maxFeePerGas")}


def signed_transaction(chain: Chain, tx_hash: str) -> bytes:
    """A transaction as its sender signed it; rebuilt from its fields where a node (Hardhat) does not keep the bytes.

    Raises:
        PayloadError: the node hands out no bytes that have this hash.
        ChainUnreachable: it does not answer.

    """
    try:
        found = chain.raw("eth_getRawTransactionByHash", tx_hash)
    except LedgerError:  # an error, or null: not every node has it
        found = b""
    if _is_hash_of(tx_hash, found):
        return found
    told = chain.mapping("eth_getTransactionByHash", tx_hash)
    try:
        found = encoded(told or {})
    except (KeyError, TypeError, ValueError, AttributeError, rlp.exceptions.RLPException) as error:
        raise PayloadError(
            f"{chain.url} does not hand out the transaction {tx_hash} ({error!r:.80}): ask another node"
        ) from error
    if not _is_hash_of(tx_hash, found):
        raise PayloadError(f"{chain.url} hands out another transaction than {tx_hash}: ask another node")
    return found


def encoded(told: dict[str, Any]) -> bytes:
    """A transaction of type 0, 1 or 2 (EIP-155, 2930, 1559) from the fields that a node tells of it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: fields are missing or malformed, or it is of another type.

    """
    kind = _number(told.get("type", "0x0"))
    if kind not in _PRICES:
        raise ValueError(f"its type is {kind}")
    prices = [_number(told[name]) for name in _PRICES[kind]]
    target = _content(told["to"]) if told.get("to") else b""
    fields = [_number(told["nonce"]), *prices, _number(told["gas"]), target, _number(told["value"])]
    fields.append(_content(told["input"]))
    signature = [_number(told["r"]), _number(told["s"])]
    if not kind:
        return bytes(rlp.encode([*fields, _number(told["v"]), *signature]))
    access = [(_content(one["address"]), [_content(key) for key in one["storageKeys"]]) for one in told["accessList"]]
    parity = _number(told["yParity"] if "yParity" in told else told["v"])
    body = [_number(told["chainId"]), *fields, access, parity, *signature]
    return bytes([kind]) + bytes(rlp.encode(body))


def _is_hash_of(tx_hash: str, content: bytes) -> bool:
    return "0x" + keccak(content).hex() == tx_hash.lower()


def _number(said: Any) -> int:
    if not isinstance(said, str) or len(said) > _LARGEST:
        raise TypeError(f"{str(said)[:40]!r} is no quantity")
    return int(said, 16)


def _content(said: Any) -> bytes:
    return bytes.fromhex(said.removeprefix("0x"))
