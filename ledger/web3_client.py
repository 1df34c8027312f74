"""web3.py on top of our own door to the node: every request ends at the deadline, and no answer is larger than allowed.

Imported where it is wanted only: web3 takes as long to import as all the rest.
"""

from typing import Any

from web3 import Web3
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from ledger.rpc import Rpc


class RpcProvider(JSONBaseProvider):
    """Hands web3's requests to an `Rpc`, whose errors come as they are: ChainUnreachable, RpcRefused."""

    def __init__(self, rpc: Rpc) -> None:
        super().__init__()
        self._rpc = rpc

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The answer to one request."""
        return {"jsonrpc": "2.0", "id": 1, "result": self._rpc.call(method, *params)}


def web3_of(rpc: Rpc) -> Web3:
    """A client of the node behind the RPC."""
    return Web3(RpcProvider(rpc))
