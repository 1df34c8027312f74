"""Whom we know and where they can be dialed, from every way of finding peers; and when to try again.

Knows no network: it is told what was learned and what became of dials. Addresses that a peer gave for itself over an
authenticated connection come before what others say, so nobody can crowd out a member's real address.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from node.backoff import pause_after
from node.network.addresses import hosts_of

MAX_ADDRESSES = 8  # per peer and kind of source
MAX_PEERS = 8192
EXPIRY_SECONDS = 3600.0  # for those who are no members


@dataclass(frozen=True)
class RedialRules:
    """Seconds: the first retry comes after about `first`, each further one doubles up to `longest`."""

    first: float = 0.5
    longest: float = 30.0
    courtesy: float = 1.0  # of two peers that hear of each other at once, the one with the smaller id dials first


@dataclass
class _Entry:
    own: list[str] = field(default_factory=list)  # what the peer said of itself, newest first
    hints: list[str] = field(default_factory=list)  # what anybody else said, newest first
    pinned: bool = False  # the user named it
    deferred: bool = False  # whether it had its chance to dial us first
    failures: int = 0
    not_before: float = 0.0
    heard: float = 0.0  # when somebody last spoke of it, or a dial worked

    def addresses(self) -> list[str]:
        return self.own + [each for each in self.hints if each not in self.own]


class PeerBook:
    """Peers by id. `clock` is seconds, `chance` draws the jitter; members do not expire, and make room last."""

    def __init__(
        self,
        own_id: str,
        clock: Callable[[], float],
        chance: random.Random,
        rules: RedialRules | None = None,
        is_member: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._own_id = own_id
        self._clock = clock
        self._chance = chance
        self._rules = rules or RedialRules()
        self._is_member = is_member
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def pin(self, peer_id: str, address: str) -> None:
        """Notes a peer that the user named: it is dialed whoever it is, and never forgotten."""
        entry = self._entry(peer_id)
        if entry is not None:
            entry.pinned = True
            self._merge(entry, entry.hints, [address])

    def hint(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Notes what somebody else said of a peer."""
        entry = self._entry(peer_id)
        if entry is not None:
            self._merge(entry, entry.hints, addresses)
            if not entry.deferred and not entry.pinned and peer_id < self._own_id:
                entry.not_before = self._clock() + self._rules.courtesy
            entry.deferred = True

    def said_by_itself(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Notes what a peer said of itself over an authenticated connection."""
        entry = self._entry(peer_id)
        if entry is not None:
            self._merge(entry, entry.own, addresses)

    def addresses(self, peer_id: str) -> list[str]:
        """Where to dial a peer, best first."""
        entry = self._entries.get(peer_id)
        return entry.addresses() if entry else []

    def reachable(self, limit: int) -> list[tuple[str, list[str]]]:
        """Peers that gave their own addresses, the most recently heard of first."""
        known = [(peer_id, list(entry.own)) for peer_id, entry in reversed(self._entries.items()) if entry.own]
        return known[:limit]

    def hosts_of_members(self) -> list[str]:
        """The IP addresses that members gave for themselves, or the user for them; what others say does not count."""
        entries = [each for peer_id, each in self._entries.items() if each.pinned or self._is_member(peer_id)]
        return [host for each in entries for host in hosts_of(each.addresses() if each.pinned else each.own)]

    def due(self) -> list[str]:
        """Peers that may be dialed now."""
        now = self._clock()
        self._expire(now)
        return [peer_id for peer_id, each in self._entries.items() if each.not_before <= now and each.addresses()]

    def is_pinned(self, peer_id: str) -> bool:
        """Whether the user named the peer."""
        entry = self._entries.get(peer_id)
        return entry is not None and entry.pinned

    def succeeded(self, peer_id: str, address: str) -> None:
        """Notes that a dial worked; the address is tried first next time."""
        entry = self._entry(peer_id)
        if entry is not None:
            entry.failures = 0
            entry.not_before = 0.0
            kind = entry.own if address in entry.own else entry.hints
            self._merge(entry, kind, [address])

    def failed(self, peer_id: str) -> None:
        """Notes that every address of a peer failed; the next try waits, with jitter."""
        entry = self._entries.get(peer_id)
        if entry is None:
            return
        entry.failures += 1
        wait = pause_after(entry.failures, self._rules.first, self._rules.longest)
        entry.not_before = self._clock() + wait * self._chance.uniform(0.5, 1.0)

    def _entry(self, peer_id: str) -> _Entry | None:
        if peer_id == self._own_id:
            return None
        entry = self._entries.get(peer_id)
        if entry is None:
            self._make_room()
            entry = self._entries[peer_id] = _Entry()
        self._entries.move_to_end(peer_id)
        entry.heard = self._clock()
        return entry

    def _expire(self, now: float) -> None:
        """Forgets whom nobody has spoken of for long, and whom no dial reaches."""
        gone = [
            peer_id
            for peer_id, each in self._entries.items()
            if now - each.heard > EXPIRY_SECONDS and each.failures and not each.pinned and not self._is_member(peer_id)
        ]
        for peer_id in gone:
            del self._entries[peer_id]

    def _make_room(self) -> None:
        if len(self._entries) >= MAX_PEERS:
            strangers = (id for id, each in self._entries.items() if not each.pinned and not self._is_member(id))
            oldest = next(strangers, None) or next((id for id, each in self._entries.items() if not each.pinned), None)
            if oldest is not None:
                del self._entries[oldest]

    def _merge(self, entry: _Entry, into: list[str], addresses: Iterable[str]) -> None:
        """Puts `addresses` in front; one that is new makes the peer due at once."""
        fresh = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        if any(address not in into for address in fresh):
            entry.not_before = 0.0
        into[:] = (fresh + [each for each in into if each not in fresh])[:MAX_ADDRESSES]
