"""Which announcements are believed and handed on: each once, in bounds, by a member, for this session.

Knows no network. Two announcements of one member for one round with different hashes are evidence that convicts it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, islice, zip_longest

from cachetools import FIFOCache

from node.messages import Announcement

MAX_ROUNDS_REMEMBERED = 128  # per member; a session's staleness is at most 100
MAX_EVIDENCE = 4096
WITHOUT_NOTE = 512  # bytes that an announcement takes at most in a message, besides its note
MAX_DIGESTS = 16_384  # of announced payloads, with who announced each first


class Verdict(Enum):
    """What becomes of an announcement."""

    NEW = "new"
    KNOWN = "known"
    EQUIVOCATION = "equivocation"
    CONTRADICTION = "bad-announcement"
    FOREIGN_SESSION = "foreign-session"
    NOT_A_MEMBER = "not-a-member"
    TOO_LARGE = "too-large"
    TOO_OLD = "too-old"


@dataclass(frozen=True)
class Equivocation:
    """Two signed announcements of one member for one round: each on its own is valid, together they convict it."""

    first: Announcement
    second: Announcement


def newest_of_each(announcements: Iterable[Announcement], limit: int, size: int) -> list[Announcement]:
    """At most `limit` of them, below `size` bytes: each member's newest, then each one's second newest, and so on.

    By round alone, members that announce rounds far ahead would leave no room for anybody else.
    """
    members: dict[str, list[Announcement]] = {}
    for each in sorted(announcements, key=lambda one: one.round, reverse=True):
        members.setdefault(each.peer_id, []).append(each)
    turns = zip_longest(*members.values())
    chosen = list(islice((each for turn in turns for each in turn if each is not None), limit))
    sizes = accumulate(WITHOUT_NOTE + len(each.note) for each in chosen)
    return [each for each, total in zip(chosen, sizes, strict=True) if total < size]


class AnnouncementBook:
    """Remembers what was announced; `judge` says what to do with one more."""

    def __init__(self, session_id: int, payload_limit: int, gate: Callable[[str], bool]) -> None:
        self._session_id = session_id
        self._payload_limit = payload_limit
        self._gate = gate
        self._rounds: dict[str, dict[int, Announcement]] = {}
        self._forgotten: dict[str, int] = {}  # newest round of which nothing is known any more
        self._first: FIFOCache[bytes, tuple[str, int]] = FIFOCache(MAX_DIGESTS)  # digest -> peer id and round
        self._sizes: FIFOCache[bytes, int] = FIFOCache(MAX_DIGESTS)  # of payloads that were verified
        self._convicted: set[tuple[str, int]] = set()
        self._noted_again: set[tuple[str, int]] = set()  # of whose update a second note was handed on
        self.evidence: list[Equivocation] = []

    def judge(self, announcement: Announcement) -> Verdict:
        """The verdict on an announcement whose signature is verified; a NEW one is remembered.

        One more with another note is NEW too, once: the first one stays what is remembered.
        """
        if announcement.session_id != self._session_id:
            return Verdict.FOREIGN_SESSION
        if announcement.size > self._payload_limit:
            return Verdict.TOO_LARGE
        if not self._gate(announcement.peer_id):
            return Verdict.NOT_A_MEMBER
        if announcement.round <= self._forgotten.get(announcement.peer_id, -1):
            return Verdict.TOO_OLD
        rounds = self._rounds.setdefault(announcement.peer_id, {})
        known = rounds.get(announcement.round)
        if known is None and self.contradicts(announcement):
            return Verdict.CONTRADICTION
        if known is None:
            self._remember(rounds, announcement)
            return Verdict.NEW
        if known.digest == announcement.digest:
            same = (known.size, known.codec) == (announcement.size, announcement.codec)
            return self._compare_notes(known, announcement) if same else Verdict.CONTRADICTION
        return self._convict(known, announcement)

    def _compare_notes(self, known: Announcement, announcement: Announcement) -> Verdict:
        key = (known.peer_id, known.round)
        if known.note == announcement.note or key in self._noted_again:
            return Verdict.KNOWN
        self._noted_again.add(key)
        return Verdict.NEW

    def has(self, announcement: Announcement) -> bool:
        """Whether this very announcement, the same in every field, is remembered: its signature was verified then."""
        rounds = self._rounds.get(announcement.peer_id)
        return rounds is not None and rounds.get(announcement.round) == announcement

    def newest_round(self, peer_id: str) -> int:
        """The newest round that a peer is known to have announced, 0 if none."""
        return max(self._rounds.get(peer_id, ()), default=0)

    def note_bytes(self, announcement: Announcement) -> None:
        """Remembers who announced these bytes first; of our own announcements that is all that is noted here."""
        self._first.setdefault(announcement.digest, (announcement.peer_id, announcement.round))

    def note_verified(self, digest: bytes, size: int) -> None:
        """Remembers the size of bytes that were hashed here."""
        self._sizes[digest] = size

    def contradicts(self, announcement: Announcement) -> bool:
        """Whether bytes of that hash were verified here, and have another size: the announcer signed a lie."""
        return self._sizes.get(announcement.digest, announcement.size) != announcement.size

    def first_with(self, announcement: Announcement) -> tuple[str, int]:
        """Peer id and round of the first announcement with these bytes, as far as is remembered."""
        return self._first.get(announcement.digest, (announcement.peer_id, announcement.round))

    def since(self, round: int) -> list[Announcement]:
        """Everything believed from `round` on, oldest first."""
        found = [each for rounds in self._rounds.values() for each in rounds.values() if each.round >= round]
        return sorted(found, key=lambda each: (each.round, each.peer_id))

    def _remember(self, rounds: dict[int, Announcement], announcement: Announcement) -> None:
        rounds[announcement.round] = announcement
        self.note_bytes(announcement)
        if len(rounds) > MAX_ROUNDS_REMEMBERED:
            oldest = min(rounds)
            del rounds[oldest]
            self._convicted.discard((announcement.peer_id, oldest))
            self._noted_again.discard((announcement.peer_id, oldest))
            self._forgotten[announcement.peer_id] = oldest

    def _convict(self, first: Announcement, second: Announcement) -> Verdict:
        """The first conflict of a member's round is kept as evidence; further ones add nothing."""
        key = (first.peer_id, first.round)
        if key in self._convicted:
            return Verdict.KNOWN
        self._convicted.add(key)
        if len(self.evidence) < MAX_EVIDENCE:
            self.evidence.append(Equivocation(first, second))
        return Verdict.EQUIVOCATION
