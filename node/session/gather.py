"""Pulling the cohort's updates within a deadline: newest wanted, older accepted, nobody waited for for ever."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import trio

from node.errors import AnnouncementError, PeerError
from node.messages import ABSENT, Announcement
from node.session.board import Board
from node.session.deadline import AdaptiveDeadline
from node.session.flights import Flights
from node.session.ports import Contribution, Directory, Earlier, Learner, NothingEarlier, Payload, Peers

log = logging.getLogger(__name__)
TRIES = 3
RETRY_S = 0.2  # before the second try; doubles
ASK_S = 0.5  # without news from a connected peer, it is asked
LATER_S = 2.0  # after the deadline, for updates of earlier rounds that are announced already
ELSEWHERE = 3  # others that are asked for a payload when its announcer breaks off
GONE_S = 3.0  # a peer without a connection is given this long to come back within a round


@dataclass
class Gatherer:
    """Remembers the last good payload of each peer, and how long peers usually take."""

    peers: Peers
    directory: Directory
    board: Board
    learner: Learner
    staleness: int  # rounds
    deadline: AdaptiveDeadline
    earlier: Earlier = field(default_factory=NothingEarlier)
    holding: dict[bytes, Payload] = field(default_factory=dict)  # what `_held` has, by SHA-256: members may have it
    flights: Flights = field(init=False)
    _held: dict[int, Contribution] = field(default_factory=dict)
    _digests: dict[int, bytes] = field(default_factory=dict)  # of what `_held` has
    _refused: dict[int, bytes] = field(default_factory=dict)  # newest bad digest per member
    _dropped: set[tuple[int, bytes]] = field(default_factory=set)  # in this round: what is not there as announced

    def __post_init__(self) -> None:
        """Transfers go on beyond a round while `flights.run` runs."""
        self.flights = Flights(self._fetch)

    async def gather(self, round: int, cohort: Iterable[int]) -> list[Contribution]:
        """Verified contributions of the cohort, ascending by member; late, bad and absent peers are left out."""
        found: dict[int, Contribution] = {}
        waited = set(cohort)
        self._dropped.clear()
        for member in self.flights.keep_only(lambda coming: self._recordable(coming.round, round)):
            await self.earlier.settle(member, None)

        async def obtain(member: int) -> None:
            await self._obtain(member, round, found)
            waited.remove(member)

        with trio.move_on_after(self.deadline.seconds()):
            async with trio.open_nursery() as nursery:
                for member in cohort:
                    nursery.start_soon(obtain, member)
        self._heed(cohort, round, found)
        with trio.move_on_after(LATER_S):
            async with trio.open_nursery() as nursery:
                for member in waited - set(found):
                    nursery.start_soon(self._obtain_older, member, round, found)
        for member in cohort:
            if member not in found and (old := self._acceptable(member, round)):
                found[member] = old
        return [found[member] for member in sorted(found)]

    def _heed(self, cohort: Iterable[int], round: int, found: Mapping[int, Contribution]) -> None:
        """Who gets nothing new from all who are here is ahead of them, and waits longer next time."""
        here = self.peers.connected()
        if any(one.round >= round for one in found.values()):
            self.deadline.met()
        elif any(self.directory.peer_of(member) in here for member in cohort if member not in self.board.convicted()):
            self.deadline.missed()

    def _acceptable(self, member: int, round: int) -> Contribution | None:
        held = self._held.get(member)
        if held is None or not self._recordable(held.round, round) or member in self.board.convicted():
            return None
        return held

    def _recordable(self, of: int, round: int) -> bool:
        """Whether an update of round `of` may go into the mix of `round`: a row has room for 127 rounds ahead."""
        return round - self.staleness <= of < round - ABSENT

    async def _obtain(self, member: int, round: int, found: dict[int, Contribution]) -> None:
        """Waits for the member's update of `round` or newer and pulls it; falls back to an older one.

        What is on its way since an earlier round comes first: two transfers would only share a slow link.
        """
        started = trio.current_time()
        await self._land(member, round, found)
        while (fresh := self._fresh(member, round)) is None:
            if member in self.board.convicted() or not await self._more_to_come(member, max(0, round - self.staleness)):
                break
        if fresh is not None and (contribution := await self._have(member, fresh)) is not None:
            found[member] = contribution
            self.deadline.observe(trio.current_time() - started)
        else:
            await self._obtain_older(member, round, found)

    async def _obtain_older(self, member: int, round: int, found: dict[int, Contribution]) -> None:
        """The newest that may still be mixed, if there is any."""
        await self._land(member, round, found)
        stale = self.board.newest(member)
        if stale is not None and self._recordable(stale.round, round):
            await self._pull_stale(member, stale, found)

    async def _land(self, member: int, round: int, found: dict[int, Contribution]) -> None:
        """Waits for what of the member is on its way, since this round or an earlier one."""
        coming = self.flights.under_way(member)
        if coming is None or not self._recordable(coming.round, round):
            return
        if member in self.board.convicted():
            self.flights.drop(member)
        elif (contribution := await self._have(member, coming)) is not None:
            found[member] = contribution

    def _fresh(self, member: int, round: int) -> Announcement | None:
        newest = self.board.newest(member)
        return (
            newest if newest is not None and newest.round >= round and self._recordable(newest.round, round) else None
        )

    async def _more_to_come(self, member: int, since: int) -> bool:
        """Waits for news, and asks for them when none come; False for a member that has been gone for GONE_S.

        It is asked for what was said from round `since` on: GossipSub does not repeat what was said before they met.
        """
        peer = self.directory.peer_of(member)
        if peer is None:
            return False
        for _ in range(round(GONE_S / ASK_S)):
            with trio.move_on_after(ASK_S) as patience:
                await self.board.wait_for_change()
            if not patience.cancelled_caught:
                return True
            if peer in self.peers.connected():
                await self.peers.ask(peer, since)
                return True
        return False

    async def _pull_stale(self, member: int, stale: Announcement, found: dict[int, Contribution]) -> None:
        held = self._held.get(member)
        if held is not None and held.round >= stale.round:
            found[member] = held
        elif (contribution := await self._have(member, stale)) is not None:
            found[member] = contribution

    async def _have(self, member: int, announcement: Announcement) -> Contribution | None:
        """The announced update: the one that is held, or pulled and held from now on; None if it can't be had."""
        held = self._held.get(member)
        if held is not None and held.round == announcement.round and self._digests.get(member) == announcement.digest:
            return held
        contribution = await self._pull(member, announcement)
        return None if contribution is None else self._keep(contribution, announcement.digest)

    def _keep(self, contribution: Contribution, digest: bytes) -> Contribution:
        """Remembers a contribution instead of the one before, whose file, if it has one, goes."""
        before, outdated = self._held.get(contribution.member), self._digests.get(contribution.member)
        self._held[contribution.member] = contribution
        self._digests[contribution.member] = digest
        if outdated is not None:
            self._release(outdated)
        self.holding[digest] = contribution.payload
        if before is not None and isinstance(before.payload, Path):
            before.payload.unlink(missing_ok=True)
        return contribution

    def _release(self, digest: bytes) -> None:
        """One member less has a payload of that hash: another's copy is held instead, if there is one."""
        another = next((member for member, kept in self._digests.items() if kept == digest), None)
        if another is None:
            self.holding.pop(digest, None)
        else:
            self.holding[digest] = self._held[another].payload

    async def _pull(self, member: int, announcement: Announcement) -> Contribution | None:
        """The announced update, verified; None after a refusal, or after TRIES failures of the peer."""
        if self._refused.get(member) == announcement.digest:
            return None

        async def fetch(digest: bytes, size: int) -> Payload | None:
            return await self._fetch(member, replace(announcement, digest=digest, size=size))

        coming = self.flights.under_way(member)
        if coming is None or coming.digest != announcement.digest:  # what was fetched for another one is of no use
            await self.earlier.settle(member, None)
        payload = await self.flights.bring(member, announcement)
        if payload is None or not await self.earlier.complete(member, payload, fetch):
            await self.earlier.settle(member, None)
            self.flights.drop(member)
            return None
        fault = await self.learner.accepts(payload)
        await self.earlier.settle(member, payload if fault is None else None)
        if fault is not None:
            log.warning("update of member %d, round %d is left out: %s", member, announcement.round, fault)
            self._refused[member] = announcement.digest
            self.flights.drop(member)
            return None
        self.flights.collected(member)
        return Contribution(member, announcement.round, payload)

    async def _fetch(self, member: int, announcement: Announcement) -> Payload | None:
        for attempt in range(TRIES):
            if (member, announcement.digest) in self._dropped:
                break
            try:
                holders = [announcement.peer_id, *self._elsewhere(announcement, attempt)]
                return await self.peers.fetch(announcement, holders, self.deadline.bound_s)
            except PeerError as error:
                if isinstance(error, AnnouncementError):
                    self._dropped.add((member, announcement.digest))
                log.warning("update of member %d, round %d: %s", member, announcement.round, error)
            await trio.sleep(RETRY_S * 2**attempt)
        return None

    def _elsewhere(self, announcement: Announcement, attempt: int) -> list[str]:
        """Some members that may have pulled the same payload; which, differs with payload, asker and attempt."""
        here = self.peers.connected() - {announcement.peer_id}
        chance = announcement.digest + bytes([attempt]) + self.peers.peer_id.encode()
        return sorted(here, key=lambda peer: sha256(chance + peer.encode()).digest())[:ELSEWHERE]
