"""The hash chains of a session's members, recomputed from the events and held against the ledger's slots.

What a node serves as events is complete, unaltered and in order if and only if the slots agree, so this is where trust
in the node that is asked ends: it can still lie about the slots, but then it must lie about the contract's storage.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from eth_abi.exceptions import DecodingError

from ledger.abi import decode_answer, encode_call
from ledger.errors import BrokenChain, HistoryError, RpcRefused
from ledger.events import RECORDED
from ledger.locate import Link, locate
from ledger.log_store import LogStore
from ledger.payload import HOLD, first_slot, next_slot
from ledger.values import MemberEntry, Membership

_TRIES = 5
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before events are read again: behind one URL there may be nodes that lag, by a slot of Ethereum and more."""
_NEWEST = 64  # blocks that are read again then


def verify(store: LogStore, members: Callable[[], Sequence[MemberEntry]], follow: Callable[[], int]) -> int:
    """The number of records, all of which stand in a chain that ends in its member's slot.

    Args:
        store: the events.
        members: all who joined, as of the last reading.
        follow: reads on to the chain's head, for a node that keeps the state of its newest block only, and after a
            reorganisation.

    Raises:
        BrokenChain: a record is missing, altered or out of order, or is of nobody who joined.
        HistoryError: the node withholds members, or does not tell the slots.

    """
    pauses = list(_PAUSES)
    for _ in range(_TRIES + len(_PAUSES)):
        try:
            return _check(store, members())
        except RpcRefused as error:
            refusal = str(error)
        except HistoryError:
            if store.stands():  # else slots were asked for by number, and a reorganisation came between
                if not pauses:
                    raise
                time.sleep(pauses.pop(0))
                cached = store.lasting and not pauses  # at last all of it, for a file may be damaged
                store.forget(0 if cached else store.last - _NEWEST + 1)
            refusal = "the chain reorganises"
        follow()
    raise HistoryError(f"the slots as of block {store.last} can't be had ({refusal}): ask a node that keeps them")


def _check(store: LogStore, joined: Sequence[MemberEntry]) -> int:
    """The number of records. RpcRefused where the node no longer keeps the state of the store's last block."""
    computed, count = replay(store, joined)
    expected = member_count(store)
    if len(joined) != expected:
        what = f"the events tell of {len(joined)} members, the contract of {expected}"
        raise HistoryError(f"{what}, as of block {store.last}: the node withholds events; ask another node")
    found = slots(store, joined)
    for member in joined:
        _compare(store, member, computed[member.account], found[member.account])
    return count


def replay(store: LogStore, members: Sequence[MemberEntry]) -> tuple[dict[str, int], int]:
    """The slots by account that the events lead to, and the number of records.

    Raises:
        BrokenChain: a record is out of order, or is of nobody who joined.

    """
    joined = {member.account.lower()[2:]: member for member in members}
    slots = {account: _first(store, member) for account, member in joined.items()}
    count = 0
    for event in store.events([RECORDED]):
        round = int.from_bytes(event.body[20:24], "big")
        member = joined.get(event.account)
        if member is None:
            what = f"the record of round {round} in block {event.block} is of 0x{event.account}, which never joined"
            raise BrokenChain(f"{what}: ask another node", f"0x{event.account}", None, round)
        if round < slots[event.account] & (HOLD - 1):
            what = f"member {member.index} has a record of round {round} in block {event.block} out of order"
            raise BrokenChain(f"{what}: ask another node", member.account, member.index, round)
        slots[event.account] = next_slot(slots[event.account], event.body)
        count += 1
    return {member.account: slots[account] for account, member in joined.items()}, count


def slots(store: LogStore, members: Sequence[MemberEntry], block: int | None = None) -> Mapping[str, int]:
    """The members' slots on the ledger as of a block (None: the store's last one), without the hold bit.

    Raises:
        RpcRefused: the node no longer keeps the state of that block.

    """
    at = hex(store.last if block is None else block)
    session_id = store.source.session.session_id
    calls = [encode_call("slotOf", session_id, member.account) for member in members]
    params = [({"to": store.source.address, "data": "0x" + call.hex()}, at) for call in calls]
    answers = store.source.chain.rpc.batch("eth_call", params)
    found = {}
    for member, answer in zip(members, answers, strict=True):
        try:
            (slot,) = decode_answer("slotOf", bytes.fromhex(answer[2:]))
        except (TypeError, ValueError, LookupError) as error:
            raise HistoryError(f"{store.source.chain.url} tells no slot of {member.account}: {answer!r}") from error
        found[member.account] = slot & ~HOLD
    return found


def member_count(store: LogStore) -> int:
    """How many ever joined, as the contract has it as of the store's last block. RpcRefused as `slots`."""
    call = encode_call("session", store.source.session.session_id)
    query = {"to": store.source.address, "data": "0x" + call.hex()}
    answer = store.source.chain.rpc.call("eth_call", query, hex(store.last))
    try:
        ((_, _, _, count, *_),) = decode_answer("session", bytes.fromhex(answer[2:]))
    except (TypeError, ValueError, LookupError, DecodingError) as error:
        raise HistoryError(f"{store.source.chain.url} tells no number of members: {answer!r:.80}") from error
    return int(count)


def _first(store: LogStore, member: MemberEntry) -> int:
    membership = Membership(member.peer_key, member.binding)
    return first_slot(member.account, store.source.session.session_id, member.index, membership)


def _compare(store: LogStore, member: MemberEntry, computed: int, found: int) -> None:
    if computed == found:
        return

    def slot_at(block: int) -> int:
        return slots(store, [member], block)[member.account]

    links = [Link(_first(store, member), -1, member.joined_block, "", b"")]
    own = (event for event in store.events([RECORDED]) if event.account == member.account.lower()[2:])
    for event in own:
        slot = next_slot(links[-1].slot, event.body)
        round = int.from_bytes(event.body[20:24], "big")
        links.append(Link(slot, round, event.block, event.tx_hash, event.body))
    suspect, what = locate(store.source.chain, links, found, slot_at)
    whose = f"the records of member {member.index} ({member.account}) do not add up to its slot on the ledger"
    raise BrokenChain(f"{whose}: {what}; ask another node", member.account, member.index, suspect)
