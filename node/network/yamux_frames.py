"""Yamux frames: their header, and cutting them out of bytes that arrive in any pieces. Knows no connection."""

import struct
from collections.abc import Callable
from typing import Protocol

from node.causes import Cause

HEADER = struct.Struct("!BBHII")  # version, kind, flags, stream id, length or increment
DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8


class Violation(Exception):
    """The peer broke the protocol; `cause` is for counters."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


class Body(Protocol):
    """Where the body of a DATA frame goes."""

    def feed(self, data: bytes) -> None:
        """Takes a piece."""

    def flagged(self, flags: int) -> None:
        """The body is complete, and these were the frame's flags."""


class FrameParser:
    """Calls `begin(kind, flags, stream_id, value)` for each header; for DATA, what that returns gets the body."""

    def __init__(self, begin: Callable[[int, int, int, int], Body | None]) -> None:
        self._begin = begin
        self._header = b""  # of the frame that is coming in, as far as it has
        self._left = 0  # of its body
        self._flags = 0
        self._body: Body | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, wherever they begin and end: bodies are passed on as they arrive."""
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                self._left -= len(piece)
                if self._body is not None:
                    self._body.feed(piece)
                    if not self._left:
                        self._body.flagged(self._flags)
            else:
                piece = data[position : position + HEADER.size - len(self._header)]
                self._header += piece
                if len(self._header) == HEADER.size:
                    self._frame()
            position += len(piece)

    def _frame(self) -> None:
        version, kind, flags, stream_id, value = HEADER.unpack(self._header)
        self._header = b""
        if version != 0 or kind > GO_AWAY:
            raise Violation(Cause.UNKNOWN_FRAME, f"version {version}, kind {kind}")
        body = self._begin(kind, flags, stream_id, value)
        if kind == DATA:
            self._left, self._flags, self._body = value, flags, body
            if not value and body is not None:
                body.flagged(flags)
