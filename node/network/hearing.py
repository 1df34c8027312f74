"""What becomes of an announcement, however it came: judged by the book, counted, handed on if it is new.

Knows no stream and no mesh.
"""

from collections.abc import Callable
from dataclasses import dataclass

from node.causes import Cause
from node.messages import Announcement
from node.network.announcements import AnnouncementBook, Verdict
from node.network.standing import Standings

EQUIVOCATION_PENALTY = 50.0
FOREIGN_PENALTY = 5.0
OLD = 16  # rounds behind the member's newest: nobody repeats that by chance
# Of who forwards. It may know of a member before we do, and we may have forgotten what it has not: that is counted.
FORWARDED = {
    Verdict.FOREIGN_SESSION: FOREIGN_PENALTY,
    Verdict.NOT_A_MEMBER: 0.0,
    Verdict.TOO_LARGE: 10.0,
    Verdict.TOO_OLD: 0.1,
}


@dataclass(frozen=True)
class Hearing:
    """Judges for GossipSub and for what members tell in person; `deliver` is called once per believed announcement."""

    book: AnnouncementBook
    standings: Standings
    deliver: Callable[[Announcement], None]

    def forwarded(self, announcement: Announcement, sender: str) -> bool:
        """Takes in what came over the mesh; whether it is to be forwarded."""
        verdict = self._judge(announcement)
        if verdict in FORWARDED:
            self.standings.penalize(sender, FORWARDED[verdict], Cause(verdict.value), _named(announcement))
        elif verdict is Verdict.KNOWN and announcement.round + OLD < self.book.newest_round(announcement.peer_id):
            self.standings.count(Cause.REPLAYED, sender, _named(announcement))
        return verdict in (Verdict.NEW, Verdict.EQUIVOCATION)

    def told(self, announcement: Announcement, teller: str) -> None:
        """Takes in what a member told us in person, which may be all that it remembers."""
        verdict = self._judge(announcement)
        if verdict is Verdict.FOREIGN_SESSION:
            self.standings.penalize(teller, FOREIGN_PENALTY, Cause.FOREIGN_SESSION, _named(announcement))
        elif verdict is Verdict.TOO_LARGE:
            self.standings.count(Cause.TOO_LARGE, teller, _named(announcement))

    def _judge(self, announcement: Announcement) -> Verdict:
        verdict = self.book.judge(announcement)
        if verdict is Verdict.NEW:
            self._compare(announcement)
            self.deliver(announcement)
        elif verdict is Verdict.CONTRADICTION:  # no points: anybody may repeat it
            detail = f"{_named(announcement)} has another size or codec than its bytes, or than was said before"
            self.standings.count(Cause.BAD_ANNOUNCEMENT, announcement.peer_id, detail)
        elif verdict is Verdict.EQUIVOCATION:
            detail = f"two updates for round {announcement.round}"
            self.standings.penalize(announcement.peer_id, EQUIVOCATION_PENALTY, Cause.EQUIVOCATION, detail)
        return verdict

    def _compare(self, announcement: Announcement) -> None:
        """Counts bytes that were announced before; no more, since equal mixtures of honest members are equal bytes."""
        first = self.book.first_with(announcement)
        if first != (announcement.peer_id, announcement.round):
            cause = Cause.REPEATED_UPDATE if first[0] == announcement.peer_id else Cause.COPIED_UPDATE
            detail = f"{_named(announcement)} has the bytes that {first[0]} announced for round {first[1]}"
            self.standings.count(cause, announcement.peer_id, detail)


def _named(announcement: Announcement) -> str:
    return f"round {announcement.round} of {announcement.peer_id}"
