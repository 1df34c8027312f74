"""Whom a member asks in a round: a draw from public values that anybody can repeat; knows nothing of the network."""

import hashlib
import heapq

CONTEXT = b"fl-node/cohort/1"


def draw_cohort(session_id: int, round: int, member: int, members: int, size: int) -> tuple[int, ...]:
    """The indices of the `size` other members whom `member` asks in `round`, ascending (docs/protocol.md, section 5).

    `members` is the number of members that the drawer knows; with fewer than `size` others, all of them.
    """
    prefix = CONTEXT + session_id.to_bytes(8, "big") + round.to_bytes(4, "big") + member.to_bytes(2, "big")
    others = (other for other in range(members) if other != member)
    ranked = ((hashlib.sha256(prefix + other.to_bytes(2, "big")).digest(), other) for other in others)
    return tuple(sorted(other for _, other in heapq.nsmallest(size, ranked)))
