"""Who may come in before it is known who they are: unauthenticated connections are bounded in number and in rate.

Knows addresses and no peers.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.causes import Cause, Tally
from node.network.metering import MeteredStream
from node.network.standing import TokenBucket


@dataclass(frozen=True)
class DoorRules:
    """Bounds on connections whose peer is not known yet."""

    max_pending: int = 64  # handshakes under way; one more pushes out the oldest, which an honest peer hardly is
    per_second: float = 50.0  # connections from one IP address
    burst: float = 300.0
    total_per_second: float = 60.0  # from all addresses: each costs a handshake
    total_burst: float = 1000.0
    max_sources: int = 4096  # IP addresses remembered


class Door:
    """Asked by the listener for each connection."""

    def __init__(self, rules: DoorRules, tally: Tally) -> None:
        self._rules = rules
        self._tally = tally
        self._pending: OrderedDict[MeteredStream, None] = OrderedDict()
        self._total = TokenBucket(trio.current_time, rules.total_per_second, rules.total_burst)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def lets_in(self, stream: MeteredStream) -> bool:
        """Whether the source, and all of them, have not come too often."""
        source, _ = stream.get_remote_address() or ("", 0)
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            bucket = TokenBucket(trio.current_time, self._rules.per_second, self._rules.burst)
        self._buckets[source] = bucket
        if len(self._buckets) > self._rules.max_sources:
            self._buckets.popitem(last=False)
        if not bucket.take():
            self._tally.count(Cause.ADDRESS_RATE, detail=f"a connection from {source}")
            return False
        if not self._total.take():  # asked last: one address does not use up what is for all
            self._tally.count(Cause.TOTAL_RATE, detail=f"a connection from {source}")
            return False
        return True

    @asynccontextmanager
    async def passing(self, stream: MeteredStream) -> AsyncIterator[None]:
        """Counts a connection as pending until its handshake names the peer."""
        for each in [each for each in self._pending if each.is_booked]:
            del self._pending[each]
        if len(self._pending) >= self._rules.max_pending:
            oldest, _ = self._pending.popitem(last=False)
            self._tally.count(Cause.HANDSHAKE_PUSHED_OUT, detail=_source(oldest))
            await oldest.close()
        self._pending[stream] = None
        try:
            yield
        finally:
            if stream in self._pending:
                del self._pending[stream]
                if not stream.is_named:
                    self._tally.count(Cause.BAD_HANDSHAKE, detail=_source(stream))


def _source(stream: MeteredStream) -> str:
    return f"a connection from {(stream.get_remote_address() or ('an address that is gone', 0))[0]}"
