"""The announcements that a member has seen: newest per member, with two-faced members found out; knows no network."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from node.messages import Announcement
from node.session.notes import end_of
from node.session.ports import Directory


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two announcements by one member for one round: proof by its own signatures."""

    member: int
    first: Announcement
    second: Announcement


@dataclass
class Board:
    """Keeps the announcements of the last `window` rounds per member and wakes those who wait for one."""

    session_id: int
    directory: Directory
    window: int
    _seen: dict[int, dict[int, Announcement]] = field(default_factory=dict)
    _first: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # by digest: whose it was first, of which round
    _convicted: dict[int, Equivocation] = field(default_factory=dict)
    _changed: trio.Event = field(default_factory=trio.Event)

    def post(self, announcement: Announcement) -> Equivocation | None:
        """Takes in an announcement whose signature was verified; returns a new proof of equivocation, if it is one.

        Announcements of strangers, of another session and older than the window are dropped; so are further ones of a
        round with the same hash, whatever else they say (the network counts those that differ), but for one that says
        the end, whichever came first.
        """
        member = self.directory.index_of(announcement.peer_id)
        if member is None or announcement.session_id != self.session_id or member in self._convicted:
            return None
        rounds = self._seen.setdefault(member, {})
        known = rounds.get(announcement.round)
        if known is not None and known.digest != announcement.digest:
            return self._convict(member, known, announcement)
        if known is not None:
            if end_of(announcement.note) and not end_of(known.note):
                rounds[announcement.round] = announcement
                self._wake()
            return None
        if rounds and announcement.round <= max(rounds) - self.window:
            return None
        rounds[announcement.round] = announcement
        self._first.setdefault(announcement.digest, (member, announcement.round))
        for old in [round for round in rounds if round <= max(rounds) - self.window]:
            self._forget(member, rounds.pop(old))
        self._wake()
        return None

    def _forget(self, member: int, announcement: Announcement) -> None:
        if self._first.get(announcement.digest) == (member, announcement.round):
            del self._first[announcement.digest]

    def _convict(self, member: int, first: Announcement, second: Announcement) -> Equivocation:
        proof = Equivocation(member, first, second)
        self._convicted[member] = proof
        for announcement in self._seen.pop(member, {}).values():
            self._forget(member, announcement)
        self._wake()
        return proof

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def newest(self, member: int) -> Announcement | None:
        """The member's announcement with the highest round, None if there is none (or it was convicted)."""
        rounds = self._seen.get(member)
        return rounds[max(rounds)] if rounds else None

    def newest_within(self, member: int, first: int, last: int) -> Announcement | None:
        """The member's newest announcement of the rounds from `first` to `last`, None if there is none."""
        rounds = [round for round in self._seen.get(member, {}) if first <= round <= last]
        return self._seen[member][max(rounds)] if rounds else None

    def first_with(self, digest: bytes) -> int | None:
        """The member that announced these bytes first, as far as its announcement is kept."""
        first = self._first.get(digest)
        return None if first is None else first[0]

    def convicted(self) -> Mapping[int, Equivocation]:
        """Members that contradicted themselves, with the proof."""
        return self._convicted

    async def wait_for_change(self) -> None:
        """Returns after the next announcement or conviction."""
        await self._changed.wait()
