"""What a Kademlia peer remembers: others by their distance to itself, and providers by key. Bounded, without network.

Maymounkov and Mazières, "Kademlia: A Peer-to-peer Information System Based on the XOR Metric" (2002);
https://github.com/libp2p/specs/tree/master/kad-dht.
"""

import hashlib
from collections import Counter, OrderedDict
from dataclasses import dataclass

BUCKET = 20  # peers kept for each length of the common prefix, and in an answer
MAX_PROVIDERS = 256  # per key
MAX_KEYS = 4096
MAX_KEYS_PER_PEER = 16
PROVIDED_FOR = 1800.0  # seconds until a provider has to say so again

Place = tuple[str, tuple[str, ...]]  # a peer id and its addresses


def point(data: bytes) -> int:
    """Where a key, or a peer id in bytes, lies in the space of 256 bits."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


@dataclass(frozen=True)
class Contact:
    """A peer that has answered."""

    peer_id: str
    point: int
    addresses: tuple[str, ...]


class RoutingTable:
    """Contacts in buckets by the length of the prefix they share with us; in a full one the oldest that lives stays."""

    def __init__(self, own_point: int) -> None:
        self._own = own_point
        self._buckets: dict[int, OrderedDict[str, Contact]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def seen(self, contact: Contact) -> None:
        """Notes a peer that has just answered; it is not taken if its bucket is full of others."""
        if contact.point == self._own:
            return
        bucket = self._buckets.setdefault(self._prefix(contact.point), OrderedDict())
        if contact.peer_id in bucket or len(bucket) < BUCKET:
            bucket.pop(contact.peer_id, None)
            bucket[contact.peer_id] = contact

    def gone(self, peer_id: str) -> None:
        """Forgets a peer that did not answer."""
        for bucket in self._buckets.values():
            bucket.pop(peer_id, None)

    def closest(self, target: int, count: int = BUCKET) -> list[Contact]:
        """The known contacts nearest to a point, nearest first."""
        known = [contact for bucket in self._buckets.values() for contact in bucket.values()]
        return sorted(known, key=lambda contact: contact.point ^ target)[:count]

    def _prefix(self, other: int) -> int:
        return 256 - (self._own ^ other).bit_length()


class Providers:
    """Who said to have what, until when."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, OrderedDict[str, tuple[tuple[str, ...], float]]] = OrderedDict()
        self._of_peer: Counter[str] = Counter()

    def add(self, key: bytes, place: Place, now: float) -> bool:
        """Notes a provider for PROVIDED_FOR seconds; False if it has said so of too many keys, or all is full."""
        peer_id, addresses = place
        known = self._keys.get(key, OrderedDict())
        if peer_id not in known:
            full = len(known) >= MAX_PROVIDERS or (not known and len(self._keys) >= MAX_KEYS)
            if full or self._of_peer[peer_id] >= MAX_KEYS_PER_PEER:
                return False
            self._of_peer[peer_id] += 1
        self._keys.setdefault(key, known)[peer_id] = (addresses, now + PROVIDED_FOR)
        return True

    def of(self, key: bytes, now: float) -> list[Place]:
        """The providers of a key."""
        return [(peer_id, addresses) for peer_id, (addresses, until) in self._keys.get(key, {}).items() if until > now]

    def expire(self, now: float) -> None:
        """Forgets who has not repeated itself in time."""
        for key, known in list(self._keys.items()):
            for peer_id in [peer_id for peer_id, (_, until) in known.items() if until <= now]:
                del known[peer_id]
                self._of_peer[peer_id] -= 1
                if not self._of_peer[peer_id]:
                    del self._of_peer[peer_id]
            if not known:
                del self._keys[key]
