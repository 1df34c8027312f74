"""Who keeps copies of whose snapshots: a function of public values that everybody can compute, so nobody negotiates.

Rendezvous hashing, or highest random weight: each member has a weight for each snapshot, and those with the highest
keep it. When a member goes, only what it kept moves; when one comes, only what it is first for.
Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking
6(1), 1998. Knows no store and no ledger.
"""

import hashlib
import heapq
from collections.abc import Iterable

CONTEXT = b"fl-node/replica/1"


def weight(session_id: int, owner: int, round: int, member: int) -> bytes:
    """The weight (32 bytes, compared as a number) of a member for a snapshot (docs/protocol.md, section 8)."""
    snapshot = session_id.to_bytes(8, "big") + owner.to_bytes(2, "big") + round.to_bytes(4, "big")
    return hashlib.sha256(CONTEXT + snapshot + member.to_bytes(2, "big")).digest()


def holders(session_id: int, owner: int, round: int, members: Iterable[int], replicas: int) -> tuple[int, ...]:
    """The indices of the `replicas` members who keep the owner's snapshot of a round, the first in line first.

    The owner is first while it is one of `members` (those who are there now); then those with the highest weights
    follow. Fewer, where there are not so many members.
    """
    candidates = set(members)
    own = (owner,) if owner in candidates else ()
    others = ((weight(session_id, owner, round, member), -member) for member in candidates - {owner})
    return own + tuple(-negated for _, negated in heapq.nlargest(replicas - len(own), others))
