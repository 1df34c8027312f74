"""Where a member's hash chain broke: from older slots if the node keeps them, else from the transactions themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_canonical_address

from ledger.abi import selector_of
from ledger.chain import Chain
from ledger.errors import RpcRefused
from ledger.payload import HOLD, round_of_step

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Link:
    """A record in a recomputed chain: the slot after it, its round, block, transaction and entry."""

    slot: int
    round: int  # −1 for the joining
    block: int
    tx_hash: str
    entry: bytes


def locate(chain: Chain, links: Sequence[Link], found: int, slot_at: Callable[[int], int]) -> tuple[int | None, str]:
    """The first round in doubt, None if that can't be told, and what is known of it in words.

    Args:
        chain: where the transactions are.
        links: the member's chain as the events tell it, the joining first.
        found: its slot on the ledger now.
        slot_at: its slot as of a block; RpcRefused where the node keeps it no longer.

    """
    try:
        at = _first_wrong(links, slot_at)
    except RpcRefused:
        at = _first_forged(chain, links[1:])
    if at is not None and at.round < 0:
        return None, f"its joining in block {at.block} is altered"
    if at is not None:
        return at.round, f"the record of round {at.round} in block {at.block} is altered, or one before it is missing"
    told, expected = links[-1].slot & (HOLD - 1), found & (HOLD - 1)
    if told < expected:
        return told, f"rounds {told} to {expected - 1} are missing or were skipped at the end"
    gaps = [b for a, b in pairwise(links[1:]) if b.round > a.round + 1]
    if gaps:
        return gaps[0].round - 1, f"a record may be missing before the one of round {gaps[0].round}"
    return None, "it can't be told where"


def _first_wrong(links: Sequence[Link], slot_at: Callable[[int], int]) -> Link | None:
    """The last record of the first block after which the ledger's slot was another; by bisection, for once a chain
    differs it differs for ever.
    """
    marks = [list(group)[-1] for _, group in groupby(links, key=lambda link: link.block)]
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        if slot_at(marks[middle].block) == marks[middle].slot:
            low = middle + 1
        else:
            high = middle
    return marks[low] if low < len(marks) else None


def _first_forged(chain: Chain, links: Sequence[Link]) -> Link | None:
    """The first record that is not in the calldata of its transaction."""
    for start in range(0, len(links), _BATCH):
        part = links[start : start + _BATCH]
        found = chain.rpc.batch("eth_getTransactionByHash", [(link.tx_hash,) for link in part])
        for link, transaction in zip(part, found, strict=True):
            if link.entry not in _entries(transaction):
                return link
    return None


def _entries(transaction: Any) -> list[bytes]:
    """The entries that a call of `record` or `recordAfter` logs."""
    try:
        sender = to_canonical_address(transaction["from"])
        data = bytes.fromhex(transaction["input"][2:])
        if data[:4] == selector_of("record"):
            step, *rest = decode(["uint96", "bytes32", "bytes"], data[4:])
            parts = [(round_of_step(step), *rest)]
        elif data[:4] == selector_of("recordAfter"):
            parts = list(decode(["uint64", "uint256", "(uint32,bytes32,bytes)[]"], data[4:])[2])
        else:
            return []
        return [sender + round.to_bytes(4, "big") + update_hash + mix for round, update_hash, mix in parts]
    except (TypeError, KeyError, ValueError, DecodingError):
        return []
