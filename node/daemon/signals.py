"""What SIGINT and SIGTERM do to a node: they end its start at once, and its rounds in the rounds' own way."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

Heed = Callable[[signal.Signals], None]


@dataclass
class Heeding:
    """Who is told of a signal now."""

    by: Heed


@asynccontextmanager
async def ended_by_signals(tell: Callable[[str], None]) -> AsyncIterator[Heeding]:
    """A block that the first signal cancels, until the block puts somebody else in charge of signals.

    What is cancelled has promised nothing to anybody that its next start does not find: kill -9 does worse to it.
    """
    failed: Exception | None = None
    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:

                def end(number: signal.Signals) -> None:
                    tell(f"{number.name}: ending before the rounds begin")
                    nursery.cancel_scope.cancel()

                heeding = Heeding(end)
                nursery.start_soon(_hear, signals, heeding)
                yield heeding
                nursery.cancel_scope.cancel()
    except ExceptionGroup as group:  # of the block's error alone: who hears signals has none
        failed = group.exceptions[0]
    if failed is not None:
        raise failed


async def _hear(signals: AsyncIterator[int], heeding: Heeding) -> None:
    async for number in signals:
        heeding.by(signal.Signals(number))
