"""Pings of a Yamux connection: whether the peer is there, and how far away."""

from collections.abc import Callable

import trio

from node.causes import Cause
from node.network.yamux_frames import Violation


class Pings:
    """One ping under way at a time. `rtt` is the smoothed round trip in seconds, 0 until the first answer."""

    def __init__(self, patience: float) -> None:
        self.rtt = 0.0
        self._patience = patience
        self._nonce = 0
        self._sent_at = 0.0
        self._answer = trio.Event()
        self._answer.set()  # nothing is asked yet

    async def exchange(self, send: Callable[[int], None]) -> None:
        """Sends a ping and waits for its answer; raises Violation if the peer is silent for too long."""
        self._nonce += 1
        self._answer = trio.Event()
        self._sent_at = trio.current_time()
        send(self._nonce)
        with trio.move_on_after(self._patience):
            await self._answer.wait()
        if not self._answer.is_set():
            raise Violation(Cause.SILENT, f"no pong in {self._patience:.0f} s")

    def answered(self, nonce: int) -> None:
        """Notes an answer; one that nobody waits for is of no interest."""
        if nonce == self._nonce and not self._answer.is_set():
            sample = trio.current_time() - self._sent_at
            self.rtt = sample if self.rtt == 0.0 else (self.rtt + sample) / 2
            self._answer.set()
