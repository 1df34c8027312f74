"""Signed transactions: prepared, sent, waited for. Knows the contract's errors, but not what a record is."""

import time
from typing import Any

from eth_account.signers.local import LocalAccount

from ledger.abi import decode_error, sentence
from ledger.chain import LATEST, Chain, Fees
from ledger.errors import AccountUnfunded, CallRefused, LedgerError, RpcRefused, TransactionLost
from ledger.values import Receipt

POLL = 0.02
_MARGIN = 10_000  # gas beyond the estimate: storage may have changed until the transaction runs

_KNOWN_ALREADY = ("already known", "already imported", "known transaction", "alreadyknown")
_NO_FUNDS = ("insufficient funds", "enough funds")


def estimate(chain: Chain, account: str, to: str | None, data: bytes) -> int:
    """The gas limit for a call, a little above what it needs now.

    Raises:
        CallRefused: the contract would refuse the call; `reason` names its custom error.

    """
    call = {"from": account, "data": "0x" + data.hex()} | ({"to": to} if to else {})
    try:
        needed = chain.number("eth_estimateGas", call, LATEST)  # Anvil would count what waits in its pool
    except RpcRefused as error:
        raise refusal(error) from error
    return needed + needed // 4 + _MARGIN


def refusal(error: RpcRefused) -> LedgerError:
    """The node's refusal as what it means: our contract's sentence, an empty account, or the refusal itself."""
    found = decode_error(error.data)
    if found:
        return CallRefused(f"the contract refuses: {sentence(*found)}", found[0])
    if any(words in str(error).lower() for words in _NO_FUNDS):
        return AccountUnfunded(f"the account can't pay: {error}; send it some ether")
    return error


def sign(account: LocalAccount, fields: dict[str, Any], fees: Fees) -> tuple[str, bytes]:
    """The hash (0x…) and bytes of a signed transaction; legacy where the chain has no base fee."""
    price = (
        {"gasPrice": fees.most}
        if fees.tip is None
        else {"maxFeePerGas": fees.most, "maxPriorityFeePerGas": fees.tip, "type": 2}
    )
    signed = account.sign_transaction({"value": 0, **fields, **price})
    return signed.hash.to_0x_hex(), bytes(signed.raw_transaction)


def require_funds(chain: Chain, account: str, gas: int, fees: Fees) -> None:
    """Nothing, if the account can pay.

    Raises:
        AccountUnfunded: its balance is below gas limit × fee.

    """
    balance, needed = chain.balance(account), gas * fees.most
    if balance < needed:
        cure = f"send it at least {(needed - balance) / 1e18:.6f} ether on chain {chain.expected_id}"
        raise AccountUnfunded(
            f"{account} has {balance / 1e18:.6f} ether, the transaction may cost {needed / 1e18:.6f}: {cure}"
        )


def broadcast(chain: Chain, raw: bytes) -> None:
    """Hands a signed transaction to the node; one that it has already is fine.

    Raises:
        AccountUnfunded: the account can't pay.
        RpcRefused: the node does not take it.

    """
    try:
        chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
    except RpcRefused as error:
        if not any(words in str(error).lower() for words in _KNOWN_ALREADY):
            raise refusal(error) from error


def transact(chain: Chain, account: LocalAccount, to: str | None, data: bytes, timeout: float = 60.0) -> Receipt:
    """The receipt of a transaction that succeeded.

    Args:
        chain: where it goes.
        account: pays and signs.
        to: the contract, or None to create one.
        data: calldata, or the code of the new contract.
        timeout: seconds to wait until it is mined.

    Raises:
        CallRefused: the contract refuses the call.
        AccountUnfunded: the account can't pay.
        TransactionLost: it was not mined in time.

    """
    chain_id = chain.chain_id()
    with chain.sending:
        gas, fees = estimate(chain, account.address, to, data), chain.fees()
        require_funds(chain, account.address, gas, fees)
        fields = {"nonce": chain.nonce(account.address, "pending"), "gas": gas, "chainId": chain_id, "data": data}
        tx_hash, raw = sign(account, fields | ({"to": to} if to else {}), fees)
        broadcast(chain, raw)
    receipt, succeeded = wait_for(chain, tx_hash, timeout)
    if not succeeded:
        estimate(chain, account.address, to, data)  # says why, if the reason still holds
        raise CallRefused(f"transaction {tx_hash} failed in block {receipt.block}: try again")
    return receipt


def wait_for(chain: Chain, tx_hash: str, timeout: float) -> tuple[Receipt, bool]:
    """The receipt of a transaction and whether it succeeded.

    Raises:
        TransactionLost: it was not mined in time.

    """
    deadline = time.monotonic() + timeout
    while (found := chain.receipt(tx_hash)) is None:
        if time.monotonic() > deadline:
            raise TransactionLost(f"{tx_hash} was not mined within {timeout:g} s: look it up, then try again")
        time.sleep(POLL)
    return found
