"""A session's members, folded from its events. Checks every binding; what the members recorded is history's matter."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from ledger.abi import topic_of
from ledger.chain import Chain, checksummed
from ledger.errors import HistoryError
from ledger.events import Event, fetch_logs, parse_logs, session_topic
from ledger.payload import binding_message, verify_binding
from ledger.values import MemberEntry, SessionEntry

MEMBER_EVENTS = ("MemberJoined", "MemberLeft", "MemberRemoved", "MemberReturned", "AddressesChanged")


def fetch_members(chain: Chain, address: str, session: SessionEntry, last: int | None = None) -> list[MemberEntry]:
    """All who ever joined, by index, as they stand at block `last` (None: the latest).

    Raises:
        HistoryError: the node withholds events, or serves malformed ones.

    """
    last = chain.block_number() if last is None else last
    topics = [[topic_of(name) for name in MEMBER_EVENTS], session_topic(session.session_id)]
    pages = fetch_logs(chain, address, topics, session.created_block, max(last, session.created_block))
    events = (event for _, page in pages for event in parse_logs(page, session.session_id))
    return fold_members(events, chain.expected_id or chain.chain_id(), address, session.session_id)


def fold_members(events: Iterable[Event], chain_id: int, address: str, session_id: int) -> list[MemberEntry]:
    """The members that the events, in the chain's order, tell of, by index.

    Raises:
        HistoryError: events are missing or malformed.

    """
    members: dict[str, MemberEntry] = {}
    for event in events:
        try:
            if event.kind == "MemberJoined":
                account = checksummed("0x" + event.account)
                message = binding_message(chain_id, address, session_id, account)
                members[event.account] = _joined(account, event, message)
            elif event.kind in MEMBER_EVENTS:
                members[event.account] = _changed(members[event.account], event)
        except (KeyError, ValueError, DecodingError) as error:
            raise HistoryError(f"a {event.kind} in block {event.block} makes no sense: ask another node") from error
    found = sorted(members.values(), key=lambda member: member.index)
    if [member.index for member in found] != list(range(len(found))):
        raise HistoryError(f"the node withholds events of members of session {session_id:016x}: ask another node")
    return found


def doubled_keys(members: Sequence[MemberEntry]) -> dict[int, int]:
    """Members that use the libp2p key of an earlier one, by index, and the first that proved to hold it.

    Whoever can't sign with a key holds none, so nobody loses a key to who only names it before its owner does.
    """
    holders: dict[bytes, int] = {}
    doubled = {}
    for member in members:
        if member.bound and (first := holders.setdefault(member.peer_key, member.index)) != member.index:
            doubled[member.index] = first
    return doubled


def _joined(account: str, event: Event, message: bytes) -> MemberEntry:
    index, peer_key, binding, addresses = decode(["uint16", "bytes32", "bytes", "bytes"], event.body)
    return MemberEntry(
        index=index,
        account=account,
        peer_key=peer_key,
        binding=binding,
        addresses=_multiaddrs(addresses),
        active=True,
        standing="active",
        joined_block=event.block,
        bound=verify_binding(peer_key, binding, message),
    )


def _changed(member: MemberEntry, event: Event) -> MemberEntry:
    if event.kind in {"MemberLeft", "MemberRemoved"}:
        return replace(member, active=False, standing="left" if event.kind == "MemberLeft" else "removed")
    (addresses,) = decode(["bytes"], event.body)
    if event.kind == "MemberReturned":
        return replace(member, active=True, standing="active", addresses=_multiaddrs(addresses))
    return replace(member, addresses=_multiaddrs(addresses))


def _multiaddrs(text: bytes) -> tuple[str, ...]:
    """As a member wrote them: any bytes are possible, so what is not UTF-8 is replaced."""
    return tuple(text.decode(errors="replace").split())
