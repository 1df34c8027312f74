"""Payloads of which a part came before time was up: the next call goes on there, so that a slow link gets them whole.

Knows no peer. What is kept is unverified until the rest is there, and bounded.
"""

from node.network.sink import Sink

LARGEST = 64 << 20  # bytes in all; what is oldest goes first


class Unfinished:
    """Sinks in memory, by the hash of what they are to become."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._sinks: dict[bytes, Sink] = {}

    def take(self, digest: bytes, size: int) -> Sink | None:
        """The sink that goes on with a payload; now the caller's. None if there is none of that hash and size."""
        sink = self._sinks.get(digest)
        return self._sinks.pop(digest) if sink is not None and sink.size == size else None

    def keep(self, sink: Sink) -> None:
        """Takes over a sink that is not written to any more; one that is empty, or lies in a file, is discarded."""
        if not sink.received or not sink.in_memory:
            sink.discard()
            return
        before = self._sinks.pop(sink.digest, None)
        if before is not None:  # of a call that ran beside
            before, sink = sorted((before, sink), key=lambda each: each.received)
            before.discard()
        self._sinks[sink.digest] = sink
        while sum(each.received for each in self._sinks.values()) > self._largest:
            self._sinks.pop(next(iter(self._sinks))).discard()

    def __len__(self) -> int:
        return len(self._sinks)
