"""Waiting before another try: longer each time, and never in step with the others. Knows no peer."""

import random
from collections.abc import Iterator

FIRST_S, LONGEST_S = 0.2, 5.0


def pauses(chance: random.Random) -> Iterator[float]:
    """Seconds to wait before the second try, the third, …: doubled each time, times a random half to one and a half."""
    pause = FIRST_S
    while True:
        yield pause * chance.uniform(0.5, 1.5)
        pause = min(LONGEST_S, 2 * pause)
