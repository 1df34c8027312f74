"""Where a member's hash chain broke: from older slots if the node keeps them, else from the transactions themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
    exact = True
    try:
        wrong = _first_wrong(links, slot_at)
    except RpcRefused:
        wrong, exact = _first_forged(chain, links), False
    if wrong is not None:
        return _explain(chain, links, wrong)
    told, expected = links[-1].slot & (HOLD - 1), found & (HOLD - 1)
    if told < expected:
        return told, f"rounds {told} to {expected - 1} are missing or were skipped at the end"
    if exact:  # all that is told is right, and no round is open: what comes after it can only close the last one
        return told, f"the closing record of round {told} is missing at the end"
    gaps = [b for a, b in pairwise(links[1:]) if b.round > a.round + 1]
    if gaps:
        return gaps[0].round - 1, f"a record may be missing before the one of round {gaps[0].round}"
    return None, "it can't be told where"


def _first_wrong(links: Sequence[Link], slot_at: Callable[[int], int]) -> range | None:
    """Positions of the records of the first block after which the ledger's slot was another; by bisection, for once a
    chain differs it differs for ever.
    """
    ends = [i for i, link in enumerate(links) if i + 1 == len(links) or links[i + 1].block != link.block]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        if slot_at(links[ends[middle]].block) == links[ends[middle]].slot:
            low = middle + 1
        else:
            high = middle
    return range(ends[low - 1] + 1 if low else 0, ends[low] + 1) if low < len(ends) else None


def _first_forged(chain: Chain, links: Sequence[Link]) -> range | None:
    """The position of the first record that is not in the calldata of its transaction."""
    for start in range(1, len(links), _BATCH):
        part = links[start : start + _BATCH]
        for at, (link, sent) in enumerate(zip(part, _sent(chain, part), strict=True), start):
            if link.entry not in sent:
                return range(at, at + 1)
    return None


def _explain(chain: Chain, links: Sequence[Link], wrong: range) -> tuple[int | None, str]:
    """Which of the records at these positions is altered, or which one is missing before them or among them."""
    joining, block = wrong.start == 0, links[wrong.start].block
    suspects = links[max(1, wrong.start) : wrong.stop]
    try:
        sent = _sent(chain, suspects)
    except RpcRefused:
        sent = [[link.entry] for link in suspects]
    for link, entries in zip(suspects, sent, strict=True):
        if link.entry not in entries:
            return link.round, f"the record of round {link.round} in block {block} is altered"
    served = {link.entry for link in suspects}
    for entry in (entry for entries in sent for entry in entries if entry not in served):
        missing = int.from_bytes(entry[20:24], "big")
        return missing, f"the record of round {missing} in block {block} is missing"
    if joining:
        return None, f"its joining in block {block} is altered"
    first, before = suspects[0].round, links[wrong.start - 1].round
    if 0 <= before < first - 1:
        return before + 1, f"records of rounds {before + 1} to {first - 1} are missing before block {block}"
    return first, f"the record of round {first} in block {block} is altered, or one before it is missing"


def _sent(chain: Chain, links: Sequence[Link]) -> list[list[bytes]]:
    """The entries in the calldata of each record's transaction."""
    found = chain.rpc.batch("eth_getTransactionByHash", [(link.tx_hash,) for link in links])
    return [_entries(transaction) for transaction in found]


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
