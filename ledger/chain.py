"""An Ethereum chain behind an RPC URL: what the ledger asks it, as numbers and bytes. Knows no contract of ours."""

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eth_utils.address import to_checksum_address

from ledger.errors import ChainUnreachable, RpcRefused, WrongChain
from ledger.rpc import Rpc
from ledger.values import Receipt

if TYPE_CHECKING:
    from web3 import Web3

GWEI = 10**9
LATEST = "latest"
_QUANTITY = re.compile("0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers per gas, in wei (EIP-1559); `tip` is None on a chain without a base fee."""

    most: int
    tip: int | None
    base: int = 0


class Chain:
    """One chain. Thread-safe; `sending` is held by whoever picks a nonce until its transaction is known to the node."""

    def __init__(self, rpc_url: str, chain_id: int | None = None, timeout: float = 10.0) -> None:
        self.rpc = Rpc(rpc_url, timeout)
        self.expected_id = chain_id
        self.sending = threading.Lock()

    @property
    def url(self) -> str:
        """The RPC URL."""
        return self.rpc.url

    @property
    def web3(self) -> "Web3":
        """A new web3.py client of the same node, for what this class does not ask; it has this chain's deadline."""
        from ledger.web3_client import web3_of  # which takes as long to import as all the rest

        return web3_of(self.rpc)

    def chain_id(self) -> int:
        """The chain's id.

        Raises:
            ChainUnreachable: no answer in time, or what answers is no Ethereum RPC.
            WrongChain: it is not the expected one.

        """
        found = self.number("eth_chainId")
        if self.expected_id is not None and found != self.expected_id:
            cure = "give the RPC URL of the session's chain"
            raise WrongChain(f"{self.url} serves chain {found} instead of {self.expected_id}: {cure}")
        return found

    def number(self, method: str, *params: Any) -> int:
        """The result of a call that answers with a quantity."""
        return self._as_number(method, self.rpc.call(method, *params))

    def raw(self, method: str, *params: Any) -> bytes:
        """The result of a call that answers with bytes."""
        found = self.rpc.call(method, *params)
        try:
            return bytes.fromhex(found.removeprefix("0x"))
        except (AttributeError, ValueError) as error:
            raise self._garbage(method, found) from error

    def block_number(self) -> int:
        """The number of the latest block."""
        return self.number("eth_blockNumber")

    def block(self, number: int) -> dict[str, Any] | None:
        """A block's header fields as the node gives them, None if there is no such block."""
        return self.mapping("eth_getBlockByNumber", hex(number), False)

    def balance(self, account: str) -> int:
        """An account's balance in wei."""
        return self.number("eth_getBalance", account, LATEST)

    def nonce(self, account: str, block: str = LATEST) -> int:
        """The number of the account's transactions up to the block (`pending` counts those that wait, too)."""
        return self.number("eth_getTransactionCount", account, block)

    def code(self, address: str) -> bytes:
        """The code at an address, empty if there is none."""
        return self.raw("eth_getCode", address, LATEST)

    def read(self, to: str, data: bytes) -> bytes:
        """What a contract's view answers."""
        return self.raw("eth_call", {"to": to, "data": "0x" + data.hex()}, LATEST)

    def fees(self) -> Fees:
        """What to offer now, so that six full blocks in a row do not outbid us: twice the base fee, and a tip."""
        latest = self.mapping("eth_getBlockByNumber", LATEST, False)
        if latest is None or "baseFeePerGas" not in latest:
            return Fees(most=self.number("eth_gasPrice"), tip=None)
        base = self._as_number("eth_getBlockByNumber", latest["baseFeePerGas"])
        if not base:  # only a chain on which gas is free has that, though Hardhat and others still suggest a price
            return Fees(most=0, tip=0)
        try:
            tip = self.number("eth_maxPriorityFeePerGas")
        except RpcRefused:  # not every node has it
            tip = GWEI
        tip = min(tip, self.number("eth_gasPrice"))  # Anvil suggests a tip even where gas is free
        return Fees(most=2 * base + tip, tip=tip, base=base)

    def receipt(self, tx_hash: str) -> tuple[Receipt, bool] | None:
        """A mined transaction's receipt and whether it succeeded, None while it is not mined."""
        found = self.mapping("eth_getTransactionReceipt", tx_hash)
        if found is None:
            return None
        block, used = (self._as_number("receipt", found.get(key)) for key in ("blockNumber", "gasUsed"))
        price = self._as_number("receipt", found.get("effectiveGasPrice", "0x0"))
        return Receipt(tx_hash, block, used, price), found.get("status") == "0x1"

    def mapping(self, method: str, *params: Any) -> dict[str, Any] | None:
        """The result of a call that answers with an object or null."""
        found = self.rpc.call(method, *params)
        if found is not None and not isinstance(found, dict):
            raise self._garbage(method, found)
        return found

    def _as_number(self, method: str, found: Any) -> int:
        if not isinstance(found, str) or not _QUANTITY.fullmatch(found):
            raise self._garbage(method, found)
        return int(found, 16)

    def _garbage(self, method: str, found: Any) -> ChainUnreachable:
        return ChainUnreachable(
            f"{self.url} answers {method} with {str(found)[:60]!r}: it is no Ethereum RPC, check the URL"
        )


def connect(rpc_url: str, chain_id: int | None = None, timeout: float = 10.0) -> Chain:
    """The chain behind the URL, which answers and has the id.

    Args:
        rpc_url: http or https.
        chain_id: the expected id; None takes what is there.
        timeout: seconds for each request.

    Raises:
        ChainUnreachable: no answer in time, or what answers is no Ethereum RPC.
        WrongChain: the id is another one.

    """
    chain = Chain(rpc_url, chain_id, timeout)
    chain.expected_id = chain.chain_id()
    return chain


def checksummed(address: str) -> str:
    """The address in mixed case (EIP-55).

    Raises:
        ValueError: it is no address.

    """
    return str(to_checksum_address(address))
