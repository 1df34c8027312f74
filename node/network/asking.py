"""What a node asks of others on its own account: members whom they know and what was said, trackers who is there.

Knows no payload. Answers become hints in the peer book and announcements in the inbox.
"""

import logging
import random

import trio

from node.causes import Cause
from node.errors import PeerError
from node.network import rendezvous
from node.network.containment import is_malformed
from node.network.kademlia import key_of
from node.network.parts import Parts, StreamOpener

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONELY_PAUSE, SETTLED_PAUSE = 0.25, 5.0, 60.0  # seconds between questions to a tracker
REGISTERED_SECONDS = 300.0  # how long a tracker should remember us
ASKED_OF_TRACKER = 16


class Asker:
    """Asks, for as long as its tasks run. `tracker_seconds` has the time of the last announce and look-up."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._open_stream = StreamOpener(parts.running, parts.connector)
        self._chance = random.Random(parts.identity.peer_id)  # noqa: S311  (jitter)
        self.tracker_seconds: dict[str, tuple[float, float]] = {}

    async def refresh(self, peer_id: str, since: int = 0) -> None:
        """Asks a member whom it knows and what was announced from round `since` on. Raises PeerError."""
        parts = self._parts
        for told, addresses in await parts.client.peers(peer_id, parts.running.addresses):
            parts.peers.hint(told, addresses)
        parts.connector.wake()
        for announcement in await parts.client.announcements(peer_id, since):
            parts.hearing.told(announcement, peer_id)

    async def greet(self, peer_id: str) -> None:
        """Introduces us to a member that has just connected, and learns what it knows."""
        await self._try(peer_id)
        await self._parts.gossip.welcome(peer_id)

    async def ask_around(self) -> None:
        """Asks a random member now and then, until cancelled: GossipSub does not repeat, and members move."""
        while True:
            await trio.sleep(self._parts.settings.ask_seconds * self._chance.uniform(0.5, 1.5))
            connected = sorted(self._parts.connector.connected())
            if connected:
                await self._try(self._chance.choice(connected))

    async def _try(self, peer_id: str) -> None:
        try:
            await self.refresh(peer_id)
        except PeerError as error:
            logger.info("%s", error)

    async def ask_tracker(self, tracker: str) -> None:
        """Announces us to a tracker and looks others up: often while we know nobody, then now and then."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._consult(tracker)
            except PeerError as error:
                logger.info("%s", error)
            pause = min(2 * pause, SETTLED_PAUSE if self._parts.connector.connected() else LONELY_PAUSE)
            await trio.sleep(pause * self._chance.uniform(0.5, 1.0))

    async def ask_directory(self) -> None:
        """Takes part in the Kademlia directory, says there that we are a member, and looks for others."""
        parts = self._parts
        key = key_of(parts.settings.session_id)
        pause = FIRST_PAUSE
        while True:
            linked = [peer_id for peer_id in parts.connector.linked() if parts.peers.addresses(peer_id)]
            await parts.directory.join([(peer_id, tuple(parts.peers.addresses(peer_id))) for peer_id in linked])
            await parts.directory.provide(key)
            for peer_id, told in await parts.directory.find_providers(key):
                parts.peers.hint(peer_id, told)
            parts.connector.wake()
            pause = min(2 * pause, SETTLED_PAUSE if parts.connector.connected() else LONELY_PAUSE)
            await trio.sleep(pause * self._chance.uniform(0.5, 1.0))

    async def _consult(self, tracker: str) -> None:
        parts = self._parts
        namespace = rendezvous.namespace_of(parts.settings.session_id)
        stream = await self._open_stream(tracker, [rendezvous.PROTOCOL])
        try:
            began = trio.current_time()
            own_id, addresses = parts.identity.peer_id, parts.running.addresses
            await rendezvous.announce(stream, namespace, own_id, addresses, REGISTERED_SECONDS)
            announced = trio.current_time()
            found = await rendezvous.look_up(stream, namespace, ASKED_OF_TRACKER)
            self.tracker_seconds[tracker] = (announced - began, trio.current_time() - announced)
        except PeerError as error:
            if is_malformed(error.__cause__):
                parts.standings.count(Cause.BAD_TRACKER_ANSWER, tracker, error.__cause__)
            raise
        finally:
            await rendezvous.finish(stream)
        for peer_id, told in found.members:
            parts.peers.hint(peer_id, told)
        parts.connector.wake()
