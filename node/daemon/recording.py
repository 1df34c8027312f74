"""Records on their way from the disk to the chain, in the background; training never waits for any of it."""

import logging
from dataclasses import dataclass, field

import trio

from ledger import Outbox, Record

log = logging.getLogger(__name__)
STEP_S = 0.2  # between steps while something is on its way
PATIENCE_S = 5.0  # at most, between steps while the chain is out of reach


@dataclass(frozen=True, slots=True)
class RecordState:
    """How far the records of this node are."""

    confirmed: int = 0
    pending: int = 0
    gas: int = 0
    last_error: str | None = None


@dataclass
class Recorder:
    """Owns the outbox's progress; `add` is durable, everything else happens behind it."""

    outbox: Outbox
    state: RecordState = RecordState()
    _unseen: int = 0  # records added since the state was read
    _wake: trio.Event = field(default_factory=trio.Event)

    async def add(self, record: Record) -> None:
        """Puts a record on disk; once this returns it will reach the chain. OutboxError if it contradicts another."""
        self._unseen += 1
        await trio.to_thread.run_sync(self.outbox.add, record)
        self._wake.set()

    async def has_closing(self, session_id: int, round: int) -> bool:
        """Whether a closing record of the round is on disk."""
        return await trio.to_thread.run_sync(self.outbox.has_closing, session_id, round)

    async def run(self) -> None:
        """Sends and confirms, for ever."""
        pause = STEP_S
        while True:
            await self._step()
            pause = min(PATIENCE_S, 2 * pause) if self.state.last_error else STEP_S
            self._wake = trio.Event()
            with trio.move_on_after(pause if self.state.pending else PATIENCE_S):
                await self._wake.wait()

    async def _step(self) -> None:
        unseen = self._unseen
        status = await trio.to_thread.run_sync(self.outbox.pump)
        self._unseen -= unseen
        if status.last_error and status.last_error != self.state.last_error:
            log.warning("records wait on disk: %s", status.last_error)
        self.state = RecordState(status.confirmed, status.pending, status.gas, status.last_error)

    async def flush(self, seconds: float) -> bool:
        """Waits until every record is on the chain; False if that takes longer than `seconds`."""
        flushed = False
        with trio.move_on_after(seconds):
            self._wake.set()
            while not flushed:
                await trio.sleep(STEP_S)
                flushed = not self.state.pending and not self._unseen
        return flushed
