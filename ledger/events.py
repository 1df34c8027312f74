"""The contract's logs in bulk: paged by block range, without web3's formatters (20 times faster), and taken apart."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ledger.abi import topic_of
from ledger.chain import Chain
from ledger.errors import ChainUnreachable, HistoryError, RpcRefused

FIRST_SPAN = 2_000
LARGEST_SPAN = 200_000
_PAGE = 20_000  # logs; above it the span shrinks, far below it the span grows
_OFFSET = (32).to_bytes(32, "big")  # where the only field of a Recorded event begins
_FIXED = 56  # bytes of an entry before its mix
_LAST_SECOND = 9_000_000_000  # the year 2255: pandas counts nanoseconds in 64 bits

RECORDED = "Recorded"
EVENTS = (
    RECORDED,
    "SessionCreated",
    "SessionPaused",
    "SessionResumed",
    "SessionClosed",
    "AccountAdmitted",
    "MemberJoined",
    "MemberLeft",
    "MemberRemoved",
    "MemberReturned",
    "AddressesChanged",
)


class Event(NamedTuple):
    """A log taken apart. `body` is a record's entry (see payload.entry_of), or any other event's data."""

    block: int
    position: int  # of the log in its block
    block_hash: str
    tx_hash: str
    timestamp: int | None  # seconds since 1970; not every node says it
    kind: str
    account: str  # 40 lower-case hexadecimal digits, or empty
    body: bytes


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


def parse_logs(logs: list[dict[str, Any]], session_id: int) -> Iterator[Event]:
    """The session's events that the logs are.

    Raises:
        HistoryError: a log is malformed, or of another session.

    """
    names, session = {topic_of(name): name for name in EVENTS}, session_topic(session_id)
    for log in logs:
        try:
            topics = log["topics"]
            if topics[1] != session:
                raise HistoryError(f"the node serves a log of session {topics[1]} instead of {session}: ask another")
            yield _parse(log, names[topics[0]])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise HistoryError(f"the node serves a malformed log ({error!r}): ask another node") from error


def _parse(log: dict[str, Any], kind: str) -> Event:
    body = bytes.fromhex(log["data"][2:])
    if kind == RECORDED:
        length = int.from_bytes(body[32:64], "big")
        if body[:32] != _OFFSET or not _FIXED <= length <= len(body) - 64:
            raise ValueError(f"a record of {length} bytes in {len(body)}")
        body = body[64 : 64 + length]
        account = body[:20].hex()
    else:
        account = log["topics"][2][-40:].lower() if len(log["topics"]) > 2 else ""
    said = log.get("blockTimestamp")
    timestamp = _number(said, _LAST_SECOND) if said else None
    number, position = _number(log["blockNumber"]), _number(log["logIndex"])
    return Event(number, position, log["blockHash"], log["transactionHash"], timestamp, kind, account, body)


def _number(said: str, most: int = 1 << 62) -> int:
    found = int(said, 16)
    if not 0 <= found <= most:
        raise ValueError(f"{said} is out of range")
    return found
