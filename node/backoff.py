"""Waiting before another try: longer each time, up to a bound. Knows no peer and no clock."""

import random
from collections.abc import Iterator
from itertools import count

FIRST_S, LONGEST_S = 0.2, 5.0
DOUBLINGS = 16  # more of them only make numbers large


def pause_after(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait after so many failures (from 1 on): `first_s`, doubled with each further one."""
    return min(longest_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS))


def pauses(chance: random.Random) -> Iterator[float]:
    """Seconds to wait before the second try, the third, …: each a random half to one and a half of its pause.

    So nobody tries again in step with the others.
    """
    for failures in count(1):
        yield pause_after(failures, FIRST_S, LONGEST_S) * chance.uniform(0.5, 1.5)
