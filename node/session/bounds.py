"""How much a worker may count for, whatever it says: bounds that it does not choose itself. Knows no network.

What a worker trained on is its own word. Where the coordinator knows the work of a whole round (data that it serves, a
fixed number of steps), nobody counts for more; otherwise nobody counts for more than 10 times the median of the others.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

TIMES = 10  # the others' median: a larger share is cut, also an honest one


@dataclass(frozen=True, slots=True)
class Most:
    """What a whole round of a member's work comes to at most, by what the coordinator knows itself."""

    steps: int
    examples: int = 2**62


def cut_to_others(claims: Mapping[int, int]) -> dict[int, int]:
    """Each member's claim, at most 10 times the median of the others' (the lower one of two in the middle).

    So a claim is bounded by an honest one as long as at most half of the others boast. Of two members, one counts for
    at most 10 times the other; one alone has nobody to be weighed against and keeps its claim.
    """
    if len(claims) < 2:
        return dict(claims)
    ascending = sorted(claims.values())
    middle = len(ascending) // 2 - 1  # the lower median's place among the others
    return {
        member: min(claim, TIMES * ascending[middle + (bisect_left(ascending, claim) <= middle)])
        for member, claim in claims.items()
    }
