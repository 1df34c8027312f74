"""What peers did wrong, and who is banned for it; what was refused is counted by cause in a `Tally`.

Knows no network: callers report, and ask before they serve. The clock is an argument.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from node.causes import Cause, Tally

logger = logging.getLogger(__name__)

MAX_PEERS = 4096


@dataclass(frozen=True)
class StandingRules:
    """A peer starts at 0 and is banned at or below `ban_at`; half of what it lost comes back per `half_life`."""

    ban_at: float = -100.0
    ban_seconds: float = 600.0
    half_life: float = 300.0


@dataclass
class _Record:
    score: float
    at: float
    banned_until: float


class Standings:
    """Scores by peer id; beyond MAX_PEERS the least recently touched are forgotten, those who are banned last."""

    def __init__(
        self, clock: Callable[[], float], rules: StandingRules | None = None, tally: Tally | None = None
    ) -> None:
        self._clock = clock
        self._rules = rules or StandingRules()
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self.tally = tally or Tally()

    @property
    def refused(self) -> Mapping[str, int]:
        """Cause -> how often, of those that were met."""
        return self.tally.counts

    def count(self, cause: Cause, peer_id: str = "", detail: object = "") -> None:
        """Counts what costs a peer no points: it may be innocent, or nobody knows who it was."""
        self.tally.count(cause, peer_id, detail)

    def penalize(self, peer_id: str, points: float, cause: Cause, detail: object = "") -> None:
        """Counts, and takes points from a peer."""
        self.tally.count(cause, peer_id, detail)
        now = self._clock()
        record = self._current(peer_id, now)
        record.score -= points
        if record.score <= self._rules.ban_at and record.banned_until <= now:
            record.banned_until = now + self._rules.ban_seconds
            logger.warning("peer %s is banned for %.0f s: %s", peer_id, self._rules.ban_seconds, cause)

    def is_banned(self, peer_id: str) -> bool:
        """Whether the peer is to be turned away for now."""
        record = self._records.get(peer_id)
        return record is not None and record.banned_until > self._clock()

    def score(self, peer_id: str) -> float:
        """0 for a peer without fault, less otherwise."""
        return self._current(peer_id, self._clock()).score if peer_id in self._records else 0.0

    def banned(self) -> set[str]:
        """Peers that are turned away for now."""
        now = self._clock()
        return {peer_id for peer_id, record in self._records.items() if record.banned_until > now}

    def scores(self) -> dict[str, float]:
        """Scores of the peers that did something wrong."""
        now = self._clock()
        return {peer_id: self._current(peer_id, now).score for peer_id in list(self._records)}

    def _current(self, peer_id: str, now: float) -> _Record:
        record = self._records.pop(peer_id, None) or _Record(0.0, now, -math.inf)
        record.score *= 0.5 ** ((now - record.at) / self._rules.half_life)
        record.at = now
        self._records[peer_id] = record
        while len(self._records) > MAX_PEERS:
            free = (each for each, kept in self._records.items() if kept.banned_until <= now and each != peer_id)
            del self._records[next(free, next(iter(self._records)))]  # ids are cheap: new ones must not lift a ban
        return record


class TokenBucket:
    """`rate` permits a second, `burst` at once."""

    def __init__(self, clock: Callable[[], float], rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = clock()

    def take(self, count: float = 1.0) -> bool:
        """Whether `count` permits were left, and takes them."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class TokenBuckets:
    """A bucket for each source; beyond `count`, the source that asked longest ago is forgotten."""

    def __init__(self, clock: Callable[[], float], rate: float, burst: float, count: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: LRUCache[str, TokenBucket] = LRUCache(count)

    def take(self, source: str) -> bool:
        """Whether the source had a permit left, and takes it."""
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = TokenBucket(self._clock, self._rate, self._burst)
        return bucket.take()
