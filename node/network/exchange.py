"""Fetching a payload from whoever has it: the next holder goes on where the last one stopped.

Knows no streams; docs/protocol.md, section 4, is in `serving.py` and `fetching.py`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from node.causes import Cause
from node.errors import NetworkError, PeerError
from node.messages import Announcement, Content
from node.network.fetching import ExchangeClient, Refused
from node.network.sink import Sink, SpoolRule
from node.network.standing import Standings

logger = logging.getLogger(__name__)

PROTOCOL = "/fl-node/exchange/1"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between rounds over all holders
CORRUPT_PENALTY = 60.0


async def fetch(
    client: ExchangeClient,
    standings: Standings,
    wanted: Announcement | Content,
    holders: Sequence[str],
    rule: SpoolRule,
    partial: Path | None = None,
) -> bytes | Path:
    """The payload that was announced, verified; with `partial` in that file, which may hold a part. Until cancelled.

    Raises PeerError when every holder proved bad, NetworkError when the payload cannot be stored here.
    """
    sink = await trio.to_thread.run_sync(Sink, wanted.digest, wanted.size, rule, partial)
    failure: NetworkError | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            try:
                return await _Fetch(client, standings, sink, holders).run()
            except NetworkError as error:
                failure = error  # raised below, since a nursery would wrap it
            finally:
                if partial is not None:
                    with trio.CancelScope(shield=True):
                        await sink.store()
                nursery.cancel_scope.cancel()
    finally:
        sink.discard()
    assert failure is not None
    raise failure


class _Fetch:
    def __init__(self, client: ExchangeClient, standings: Standings, sink: Sink, holders: Sequence[str]) -> None:
        self._client = client
        self._standings = standings
        self._sink = sink
        self._holders = list(dict.fromkeys(holders))
        self._first = next(iter(holders), "")
        self._suppliers: set[str] = {"a call before this one"} if sink.received else set()
        self._alone = False  # after a mixture turned out corrupt, each holder has to supply all of it

    async def run(self) -> bytes | Path:
        pause = FIRST_PAUSE
        while self._holders:
            for holder in list(self._holders):
                payload = await self._try(holder)
                if payload is not None:
                    return payload
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise PeerError(f"nobody has the payload {self._sink.digest.hex()[:16]}… as announced; it is left out")

    async def _try(self, holder: str) -> bytes | Path | None:
        if self._standings.is_banned(holder):
            self._holders.remove(holder)
            return None
        before = self._sink.received
        try:
            await self._client.fetch_into(self._sink, holder)
        except PeerError as error:
            logger.info("%s", error)
            gave_nothing = self._sink.received == before
            if isinstance(error, Refused) or (gave_nothing and self._first not in self._holders):
                self._holders.remove(holder)
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

    async def _reject(self) -> None:
        """The bytes do not match the hash: who supplied all of them is to blame, a mixture proves nothing."""
        if len(self._suppliers) == 1:
            (culprit,) = self._suppliers
            self._standings.penalize(culprit, CORRUPT_PENALTY, Cause.CORRUPT_PAYLOAD)
            self._holders.remove(culprit)
        self._alone = True
        await self._start_again()

    async def _start_again(self) -> None:
        await self._sink.restart()
        self._suppliers.clear()
