"""The one place where any exception is caught: around code that a peer's bytes drive and that is not ours.

py-libp2p runs peers' work in the nurseries that keep the host alive, and lets through whatever its dependencies
raise (decryption, Protocol Buffers, text decoding), so a list of exceptions would never be complete. What fails in
the caller's own functions must not drown there: `OwnFaults` carries it out, and it ends the network loudly.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.io.exceptions import MessageTooLarge

from node.errors import PeerError

logger = logging.getLogger("node.network")


@dataclass
class Contained:
    """What happened inside the block: `error` is None if it went well."""

    error: Exception | None = None


@contextmanager
def containing(what: str, peer: object = "") -> Iterator[Contained]:
    """Ends the block instead of the program when an exception leaves it; cancellation passes through."""
    outcome = Contained()
    try:
        yield outcome
    except BaseExceptionGroup as group:
        outcome.error, rest = group.split(Exception)  # errors while being cancelled come together with Cancelled
        logger.debug("%s failed for peer %s: %r", what, peer, outcome.error)
        if rest is not None:
            raise rest from None
    except Exception as error:  # noqa: BLE001  (see the module's docstring)
        outcome.error = error
        logger.debug("%s failed for peer %s: %r", what, peer, error)


def is_malformed(error: BaseException | None) -> bool:
    """Whether what a peer sent could not be read, in contrast to a line that broke or a peer that left."""
    return isinstance(error, DecodeError | ParseError | MessageTooLarge | UnicodeError)


def is_ordinary(error: BaseException | None) -> bool:
    """Whether this is how streams end without anybody's malice: the line broke, the peer left or was slow."""
    ends = BaseLibp2pError | PeerError | trio.TooSlowError
    return error is None or (isinstance(error, ends) and not is_malformed(error))


class OwnFaults:
    """Carries an exception of our own side from a peer's task to the task that runs the network."""

    def __init__(self) -> None:
        self._happened = trio.Event()
        self._error: Exception | None = None

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Inside, an exception is our fault, and not that of the peer whose request led there."""
        try:
            yield
        except Exception as error:
            self._error = self._error or error
            self._happened.set()
            raise

    async def wait(self) -> None:
        """Raises the first fault when it happens."""
        await self._happened.wait()
        if self._error is not None:
            raise self._error
