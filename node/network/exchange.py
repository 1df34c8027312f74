"""Fetching a payload from whoever has it: the next holder goes on where the last one stopped.

Knows no streams; docs/protocol.md, section 4, is in `serving.py` and `fetching.py`.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import trio

from node.causes import Cause
from node.errors import AnnouncementError, NetworkError, PeerError
from node.messages import Announcement, Content
from node.network.fetching import ExchangeClient, Refused, WrongSize
from node.network.sink import Sink, SpoolRule
from node.network.standing import Standings
from node.network.wire import TooSlow

logger = logging.getLogger(__name__)

PROTOCOL = "/fl-node/exchange/1"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between rounds over all holders
CORRUPT_PENALTY = 60.0
SIZE_PENALTY = 20.0
CONTRADICTED_S = 3.0  # the announcer is given this long to prove a size that somebody contradicts


async def fetch(
    client: ExchangeClient,
    standings: Standings,
    wanted: Announcement | Content,
    holders: Sequence[str],
    rule: SpoolRule,
    partial: Path | None = None,
) -> bytes | Path:
    """The payload that was announced, verified; with `partial` in that file, which may hold a part. Until cancelled.

    What came until then is kept, and the next call goes on there: in `partial`, or in memory for a payload that fits.
    Raises PeerError when every holder proved bad (AnnouncementError when one had another size, which proves nothing
    against it: who announced the size may be the liar), NetworkError when the payload cannot be stored here.
    """
    announcer = wanted.peer_id if isinstance(wanted, Announcement) else None
    sink = client.unfinished.take(wanted.digest, wanted.size) if partial is None else None
    if sink is None:
        sink = await trio.to_thread.run_sync(Sink, wanted.digest, wanted.size, rule, partial)
    failure: NetworkError | None = None
    cut_off = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            try:
                return await _Fetch(client, standings, sink, holders, announcer).run()
            except NetworkError as error:
                failure = error  # raised below, since a nursery would wrap it
            except trio.Cancelled:
                cut_off = True
                raise
            finally:
                if partial is not None:
                    with trio.CancelScope(shield=True):
                        await sink.store()
                nursery.cancel_scope.cancel()
    finally:
        if cut_off:
            client.unfinished.keep(sink)
        else:
            sink.discard()
    assert failure is not None
    raise failure


class _Fetch:
    """One payload's way here. The first holder is asked as long as it takes, the others get short turns between."""

    def __init__(
        self,
        client: ExchangeClient,
        standings: Standings,
        sink: Sink,
        holders: Sequence[str],
        announcer: str | None,
    ) -> None:
        self._client = client
        self._standings = standings
        self._sink = sink
        self._holders = list(dict.fromkeys(holders))
        self._first = next(iter(holders), "")
        self._announcer = announcer
        self._retries = 1  # of the first before others are asked
        self._slow = self._rejected = False  # the last turn
        self._contradicted = math.inf  # when somebody had another size
        self._suppliers: set[str] = {"a call before this one"} if sink.received else set()
        self._alone = False  # after a mixture turned out corrupt, each holder has to supply all of it

    async def run(self) -> bytes | Path:
        pause = FIRST_PAUSE
        while self._holders:
            payload = await self._go_round()
            if payload is not None:
                return payload
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        failure = PeerError if self._contradicted == math.inf else AnnouncementError
        raise failure(f"nobody has the payload {self._sink.digest.hex()[:16]}… as announced; it is left out")

    async def _go_round(self) -> bytes | Path | None:
        """Asks the first holder, then each other, and the first one again after each that cost time."""
        payload = await self._try_first()
        for holder in [each for each in self._holders if each != self._first]:
            if payload is None:
                payload = await self._try(holder)
                if payload is None and (self._slow or self._rejected):
                    payload = await self._try_first()
        return payload

    async def _try_first(self) -> bytes | Path | None:
        """Asks again at once where others are to blame, and once after a hiccup, but no silent one."""
        payload = await self._try(self._first)
        if payload is None and not self._rejected and not self._slow and self._retries:
            self._retries -= 1
            await trio.sleep(FIRST_PAUSE)
            payload = await self._try(self._first)
        if payload is None and self._rejected:
            payload = await self._try(self._first)
        return payload

    async def _try(self, holder: str) -> bytes | Path | None:
        self._slow = self._rejected = False
        if holder not in self._holders:
            return None
        if self._standings.is_banned(holder):
            self._holders.remove(holder)
            return None
        before = self._sink.received
        try:
            await self._client.fetch_into(self._sink, holder, hurried=holder != self._first)
        except PeerError as error:
            logger.info("%s", error)
            self._judge(holder, error, self._sink.received == before)
            if self._alone:
                await self._start_again()
            elif self._sink.received > before:
                self._suppliers.add(holder)
            return None
        self._suppliers.add(holder)
        payload = await self._sink.finish()
        if payload is None:
            await self._reject()
        return payload

    def _judge(self, holder: str, error: PeerError, gave_nothing: bool) -> None:
        """Whether to ask the holder again, and what its failure counts as."""
        self._slow = isinstance(error, TooSlow)
        if self._slow and holder != self._first:
            self._standings.count(Cause.TOO_SLOW, holder, error)
        if isinstance(error, WrongSize):
            self._contradicted = min(self._contradicted, trio.current_time())
            if holder == self._announcer:
                self._standings.penalize(holder, SIZE_PENALTY, Cause.WRONG_SIZE, error)
            else:  # which did not say the size: the announcement may be the lie
                self._standings.count(Cause.WRONG_SIZE, holder, error)
        given_up = self._first not in self._holders or trio.current_time() > self._contradicted + CONTRADICTED_S
        if isinstance(error, Refused | WrongSize) or (gave_nothing and given_up):
            self._holders.remove(holder)

    async def _reject(self) -> None:
        """The bytes do not match the hash: who supplied all of them is to blame, a mixture proves nothing."""
        self._rejected = True
        if len(self._suppliers) == 1:
            (culprit,) = self._suppliers
            self._standings.penalize(culprit, CORRUPT_PENALTY, Cause.CORRUPT_PAYLOAD)
            self._holders.remove(culprit)
        self._alone = True
        await self._start_again()

    async def _start_again(self) -> None:
        await self._sink.restart()
        self._suppliers.clear()
