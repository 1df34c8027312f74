"""The newest announcement told in person to those who need it, until they have heard it. Knows no round.

GossipSub tells everybody, but does not say who has heard, and repeats nothing for those who come later.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from node.backoff import pauses
from node.errors import PeerError
from node.messages import Announcement
from node.session.ports import Peers

LOOK_S = 0.5  # between looks at who is connected


@dataclass
class Push:
    """`say` replaces what is told; `run` tells it to every one of `listeners` that is or gets connected."""

    peers: Peers
    listeners: Callable[[], frozenset[str]]  # peer ids that should hear, connected or not
    chance: random.Random
    _said: Announcement | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def say(self, announcement: Announcement) -> None:
        """From now on this is told, and nothing before it."""
        self._said = announcement
        self._scope.cancel()

    async def run(self) -> None:
        """Tells, for ever."""
        while True:
            with trio.CancelScope() as self._scope:
                if self._said is None:
                    await trio.sleep_forever()
                else:
                    await self._tell_everybody(self._said)

    async def once(self, announcement: Announcement) -> None:
        """Tells everybody who is connected now, one time: for a node that has to go."""
        async with trio.open_nursery() as nursery:
            for peer in self.listeners() & self.peers.connected():
                nursery.start_soon(self._try, peer, announcement)

    async def _try(self, peer: str, announcement: Announcement) -> bool:
        try:
            await self.peers.tell(peer, announcement)
        except PeerError:
            return False
        return True

    async def _tell_everybody(self, said: Announcement) -> None:
        told: set[str] = set()
        async with trio.open_nursery() as nursery:
            while True:
                here = self.listeners() & self.peers.connected()
                told &= here  # one that was gone is told again
                for peer in here - told:
                    told.add(peer)
                    nursery.start_soon(self._tell, peer, said)
                await trio.sleep(LOOK_S)

    async def _tell(self, peer: str, said: Announcement) -> None:
        for pause in pauses(self.chance):
            if await self._try(peer, said) or peer not in self.peers.connected():
                return
            await trio.sleep(pause)


def only(peer: str | None) -> frozenset[str]:
    """The set of one peer, or of none."""
    return frozenset() if peer is None else frozenset({peer})
