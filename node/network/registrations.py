"""Who is registered where at a tracker, until when, and whom an asker is told of. Bounded; knows no network."""

import hashlib
import random
from dataclasses import dataclass

COOKIE_BYTES = 8


@dataclass(frozen=True)
class TrackerRules:
    """What the tracker remembers and answers."""

    longest: float = 7200.0  # seconds of a registration
    shortest: float = 120.0
    max_namespaces: int = 1024
    max_members: int = 4096  # per namespace
    max_namespaces_per_peer: int = 8
    page: int = 16  # members in one answer
    per_second: float = 2.0  # requests of one peer
    burst: float = 40.0
    idle: float = 300.0  # seconds that a stream may stay silent


@dataclass
class Registration:
    """Where a member is, and until when."""

    addresses: tuple[str, ...]
    expires: float


class Directory:
    """Registrations by namespace. `clock` is seconds; `chance` decides where an answer begins."""

    def __init__(self, rules: TrackerRules, chance: random.Random) -> None:
        self._rules = rules
        self._chance = chance
        self._total = 0
        self._salt = chance.randbytes(16)
        self._namespaces: dict[str, dict[str, Registration]] = {}
        self._rings: dict[str, list[str]] = {}  # members in an order that says nothing of when they came

    def members(self, namespace: str) -> int:
        """How many are registered."""
        return len(self._namespaces.get(namespace, ()))

    def total(self) -> int:
        """How many registrations there are in all namespaces."""
        return self._total

    def namespaces(self) -> list[str]:
        """Those with members."""
        return list(self._namespaces)

    def register(self, namespace: str, peer_id: str, addresses: tuple[str, ...], expires: float) -> str | None:
        """Notes a member until `expires`; returns why not, if so."""
        known = self._namespaces.get(namespace, {})
        if peer_id not in known:
            mine = sum(peer_id in each for each in self._namespaces.values())
            if mine >= self._rules.max_namespaces_per_peer:
                return "too many namespaces of one peer"
            if len(known) >= self._rules.max_members:
                return "this namespace is full"
            if not known and len(self._namespaces) >= self._rules.max_namespaces:
                return "this tracker is full"
            self._rings.pop(namespace, None)
            self._total += 1
        self._namespaces.setdefault(namespace, {})[peer_id] = Registration(addresses, expires)
        return None

    def unregister(self, namespace: str, peer_id: str) -> None:
        """Forgets a member."""
        known = self._namespaces.get(namespace, {})
        if known.pop(peer_id, None) is not None:
            self._rings.pop(namespace, None)
            self._total -= 1
            if not known:
                del self._namespaces[namespace]

    def expire(self, now: float) -> None:
        """Forgets whoever has not announced itself in time."""
        for namespace, known in list(self._namespaces.items()):
            for peer_id in [peer_id for peer_id, each in known.items() if each.expires <= now]:
                self.unregister(namespace, peer_id)

    def page(
        self, namespace: str, asker: str, limit: int, cookie: bytes
    ) -> tuple[list[tuple[str, Registration]], bytes]:
        """Some members other than the asker, from a place drawn by chance on, and the cookie for the next ones."""
        known = self._namespaces.get(namespace, {})
        ring = self._rings.get(namespace)
        if ring is None:
            ring = self._rings[namespace] = sorted(known, key=self._place)
            if not known:
                del self._rings[namespace]
        if not ring:
            return [], b""
        start = int.from_bytes(cookie[:4], "big") if cookie else self._chance.randrange(len(ring))
        served = int.from_bytes(cookie[4:], "big") if cookie else 0
        chosen = [ring[(start + place) % len(ring)] for place in range(served, min(served + limit, len(ring)))]
        served += len(chosen)
        following = start.to_bytes(4, "big") + served.to_bytes(4, "big") if served < len(ring) else b""
        return [(peer_id, known[peer_id]) for peer_id in chosen if peer_id != asker], following

    def _place(self, peer_id: str) -> bytes:
        return hashlib.sha256(self._salt + peer_id.encode()).digest()
