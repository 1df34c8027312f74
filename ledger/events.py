"""The contract's logs in bulk: paged by block range, without web3's formatters (20 times faster). Decodes nothing."""

from collections.abc import Iterator
from typing import Any

from ledger.chain import Chain
from ledger.errors import ChainUnreachable, HistoryError, RpcRefused

FIRST_SPAN = 2_000
LARGEST_SPAN = 200_000
_PAGE = 20_000  # logs; above it the span shrinks, far below it the span grows


def session_topic(session_id: int) -> str:
    """A session id as the second topic of every event's logs."""
    return f"0x{session_id:064x}"


def fetch_logs(
    chain: Chain, address: str, topics: list[Any], first: int, last: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Pages of logs in the chain's order, each with the last block that it covers.

    Args:
        chain: where to ask.
        address: of the contract.
        topics: as in eth_getLogs.
        first: block, inclusive.
        last: block, inclusive.

    Raises:
        HistoryError: the range is no range, or one block has more logs than the node hands out.

    """
    if not 0 <= first <= last:
        raise HistoryError(f"blocks {first} to {last} are no range: the first must not be after the last")
    span = FIRST_SPAN
    while first <= last:
        until = min(first + span - 1, last)
        query = {"address": address, "topics": topics, "fromBlock": hex(first), "toBlock": hex(until)}
        try:
            logs = chain.rpc.call("eth_getLogs", query)
        except RpcRefused as error:  # every node has limits of its own, and words of its own for them
            if until == first:
                raise HistoryError(f"the logs of block {first} can't be had: {error}") from error
            span = max(1, (until - first + 1) // 4)
            continue
        if not isinstance(logs, list):
            raise ChainUnreachable(f"{chain.url} answers eth_getLogs with {str(logs)[:60]!r}: it is no Ethereum RPC")
        yield until, logs
        first = until + 1
        span = max(1, span // 2) if len(logs) > _PAGE else min(span * 2, LARGEST_SPAN)
