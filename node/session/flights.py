"""Transfers of updates that outlast a round: the round's deadline ends the waiting, not the transfer.

Behind a slow link an update takes longer than the others wait. Cut off, it would cross the link once more in the next
round, while what was sent already still fills the link's queue.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.messages import Announcement
from node.session.ports import Payload

Fetch = Callable[[int, Announcement], Awaitable[Payload | None]]


@dataclass(eq=False)
class Flight:
    """A transfer that is under way, or over and not collected."""

    announcement: Announcement
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)
    payload: Payload | None = None
    failure: Exception | None = None


class Flights:
    """One per member. While `run` does not run, a transfer lives only as long as who waits for it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._nursery: trio.Nursery | None = None
        self._flights: dict[int, Flight] = {}

    async def run(self) -> None:
        """Carries the transfers until cancelled; then none is left."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for member in list(self._flights):
                self.drop(member)

    def under_way(self, member: int) -> Announcement | None:
        """What of the member is on its way, or has come since somebody stopped waiting for it."""
        flight = self._flights.get(member)
        return None if flight is None else flight.announcement

    async def bring(self, member: int, announcement: Announcement) -> Payload | None:
        """The payload, None if it could not be had; who stops waiting may call again, until it is `collected`.

        What else of the member was under way ends. Raises what the transfer raised.
        """
        if self._nursery is None:
            return await self._fetch(member, announcement)
        flight = self._flights.get(member)
        if flight is None or flight.announcement.digest != announcement.digest:
            self.drop(member)
            flight = self._flights[member] = Flight(announcement)
            self._nursery.start_soon(self._fly, member, flight)
        await flight.over.wait()
        if flight.payload is None and self._flights.get(member) is flight:
            self.collected(member)
        if flight.failure is not None:
            raise flight.failure
        return flight.payload

    def collected(self, member: int) -> None:
        """The caller has a use for what `bring` gave, and looks after it from now on."""
        self._flights.pop(member, None)

    def keep_only(self, wanted: Callable[[Announcement], bool]) -> list[int]:
        """Ends the others; whose they were."""
        ended = [member for member, flight in self._flights.items() if not wanted(flight.announcement)]
        for member in ended:
            self.drop(member)
        return ended

    def drop(self, member: int) -> None:
        """Ends a member's transfer, if there is one, and removes what came."""
        flight = self._flights.pop(member, None)
        if flight is not None:
            flight.scope.cancel()
            remove(flight.payload)

    async def _fly(self, member: int, flight: Flight) -> None:
        with flight.scope:
            try:
                flight.payload = await self._fetch(member, flight.announcement)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                flight.failure = error
        if flight.scope.cancel_called:
            remove(flight.payload)
        flight.over.set()


def remove(payload: Payload | None) -> None:
    """Deletes the file of a large payload that nobody wants."""
    if isinstance(payload, Path):
        payload.unlink(missing_ok=True)
