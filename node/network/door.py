"""Who may come in before it is known who they are: unauthenticated connections are bounded in number and in rate.

Knows addresses and no peers. Where members have been met before is told to it, so that strangers, however many
addresses they come from, do not use up what is for members.
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.causes import Cause, Tally
from node.network.metering import MeteredStream
from node.network.standing import TokenBucket, TokenBuckets

IPV6_SITE = 64  # bits; whoever has one IPv6 address has all that begin with them
FAMILIAR_SECONDS = 1.0  # how old the knowledge of members' addresses may be


@dataclass(frozen=True)
class DoorRules:
    """Bounds on connections whose peer is not known yet. A source is an IPv4 address or an IPv6 /64."""

    max_pending: int = 64  # handshakes under way; one more pushes out another
    per_second: float = 50.0  # connections from one source
    burst: float = 300.0
    total_per_second: float = 60.0  # from all sources together: each connection costs a handshake
    total_burst: float = 1000.0  # members' sources have as much again, for themselves
    max_sources: int = 4096  # remembered


class Door:
    """Asked by the listener for each connection. `members_at` gives the IP addresses where members are."""

    def __init__(self, rules: DoorRules, tally: Tally) -> None:
        self._rules = rules
        self._tally = tally
        self.members_at: Callable[[], Iterable[str]] = tuple
        self._familiar: frozenset[str] = frozenset()
        self._looked_at = -FAMILIAR_SECONDS
        self._pending: OrderedDict[MeteredStream, str] = OrderedDict()
        self._for_strangers, self._for_members = (
            TokenBucket(trio.current_time, rules.total_per_second, rules.total_burst) for _ in range(2)
        )
        self._buckets = TokenBuckets(trio.current_time, rules.per_second, rules.burst, rules.max_sources)

    def lets_in(self, stream: MeteredStream, *, expected: bool = False) -> bool:
        """Whether the source, and all like it, have not come too often. `expected`: a member said that it comes."""
        source = _source(stream)
        if not self._buckets.take(source):
            self._tally.count(Cause.ADDRESS_RATE, detail=f"a connection from {source}")
            return False
        total = self._for_members if expected or self._is_familiar(source) else self._for_strangers
        if not total.take():  # asked last: one source does not use up what is for all
            self._tally.count(Cause.TOTAL_RATE, detail=f"a connection from {source}")
            return False
        return True

    @asynccontextmanager
    async def passing(self, stream: MeteredStream) -> AsyncIterator[None]:
        """Counts a connection as pending until its handshake names the peer."""
        for each in [each for each in self._pending if each.is_booked]:
            del self._pending[each]
        if len(self._pending) >= self._rules.max_pending:
            pushed_out = self._most_dispensable()
            self._tally.count(Cause.HANDSHAKE_PUSHED_OUT, detail=f"a connection from {self._pending.pop(pushed_out)}")
            await pushed_out.close()
        source = self._pending[stream] = _source(stream)
        try:
            yield
        finally:
            if self._pending.pop(stream, None) is not None and not stream.is_named:
                self._tally.count(Cause.BAD_HANDSHAKE, detail=f"a connection from {source}")

    def _most_dispensable(self) -> MeteredStream:
        """The oldest of the source with the most handshakes under way, members' sources last."""
        counts = Counter(self._pending.values())
        most = max(counts, key=lambda source: (not self._is_familiar(source), counts[source]))
        return next(stream for stream, source in self._pending.items() if source == most)

    def _is_familiar(self, source: str) -> bool:
        now = trio.current_time()
        if now - self._looked_at >= FAMILIAR_SECONDS:
            self._looked_at = now
            self._familiar = frozenset(map(source_of, self.members_at()))
        return source in self._familiar


def source_of(host: str) -> str:
    """An IPv4 address as it is, also where IPv6 carries it; of an IPv6 address the network of whoever has it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # such as none: the socket is gone already
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_SITE), strict=False))


def _source(stream: MeteredStream) -> str:
    return source_of((stream.get_remote_address() or ("an address that is gone", 0))[0])
