"""A session's members, folded from its events. Checks every binding; what the members recorded is history's matter."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from ledger.abi import topic_of
from ledger.chain import Chain, checksummed
from ledger.errors import HistoryError
from ledger.events import fetch_logs, session_topic
from ledger.payload import binding_message, verify_binding
from ledger.values import MemberEntry, SessionEntry

_EVENTS = ("MemberJoined", "MemberLeft", "MemberRemoved", "MemberReturned", "AddressesChanged")


def fetch_members(chain: Chain, address: str, session: SessionEntry, last: int | None = None) -> list[MemberEntry]:
    """All who ever joined, by index, as they stand at block `last` (None: the latest).

    Raises:
        HistoryError: the node withholds events, or serves malformed ones.

    """
    last = chain.block_number() if last is None else last
    topics = [[topic_of(name) for name in _EVENTS], session_topic(session.session_id)]
    pages = fetch_logs(chain, address, topics, session.created_block, max(last, session.created_block))
    members = fold_members((log for _, page in pages for log in page), chain.expected_id or chain.chain_id(), address)
    found = [member for member in members if member.joined_block <= last]
    if [member.index for member in found] != list(range(len(found))):
        raise HistoryError(f"{chain.url} withholds events of session {session.session_id:016x}: ask another node")
    return found


def fold_members(logs: Iterable[dict[str, Any]], chain_id: int, address: str) -> Iterator[MemberEntry]:
    """The members that the logs, in the chain's order, tell of."""
    members: dict[str, MemberEntry] = {}
    names = {topic_of(name): name for name in _EVENTS}
    for log in logs:
        try:
            name, session_id = names[log["topics"][0]], int(log["topics"][1], 16)
            account, data = checksummed("0x" + log["topics"][2][-40:]), bytes.fromhex(log["data"][2:])
            if name == "MemberJoined":
                message = binding_message(chain_id, address, session_id, account)
                members[account] = _joined(account, data, int(log["blockNumber"], 16), message)
            else:
                members[account] = _changed(members[account], name, data)
        except (KeyError, IndexError, TypeError, ValueError, DecodingError) as error:
            raise HistoryError(f"the node serves a malformed log ({error!r}): ask another node") from error
    return iter(sorted(members.values(), key=lambda member: member.index))


def _joined(account: str, data: bytes, block: int, message: bytes) -> MemberEntry:
    index, peer_key, binding, addresses = decode(["uint16", "bytes32", "bytes", "bytes"], data)
    return MemberEntry(
        index=index,
        account=account,
        peer_key=peer_key,
        binding=binding,
        addresses=_multiaddrs(addresses),
        active=True,
        standing="active",
        joined_block=block,
        bound=verify_binding(peer_key, binding, message),
    )


def _changed(member: MemberEntry, event: str, data: bytes) -> MemberEntry:
    if event in {"MemberLeft", "MemberRemoved"}:
        return replace(member, active=False, standing="left" if event == "MemberLeft" else "removed")
    (addresses,) = decode(["bytes"], data)
    if event == "MemberReturned":
        return replace(member, active=True, standing="active", addresses=_multiaddrs(addresses))
    return replace(member, addresses=_multiaddrs(addresses))


def _multiaddrs(text: bytes) -> tuple[str, ...]:
    """As a member wrote them: any bytes are possible, so what is not UTF-8 is replaced."""
    return tuple(text.decode(errors="replace").split())
