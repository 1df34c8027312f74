"""A requests adapter whose calls end at a deadline, whatever the server sends meanwhile. Knows no JSON-RPC.

The timeouts of requests are per read of the socket: a byte a second keeps a call alive for ever.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class Deadline:
    """Shuts every socket that it watches down once it has passed."""

    def __init__(self) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []

    def watch(self, opened: Any) -> None:
        """Ends what is read from or written to a socket (or TLS within TLS) at the deadline."""
        found = opened if isinstance(opened, socket.socket) else getattr(opened, "socket", None)
        if not isinstance(found, socket.socket):
            return
        with self._lock:
            self._watched.append(found)
            if self.passed:
                _shut(found)

    def pass_by(self) -> None:
        """Ends all that is watched, and all that will be."""
        with self._lock:
            self.passed = True
            for found in self._watched:
                _shut(found)


@contextmanager
def within(seconds: float) -> Iterator[Deadline]:
    """A deadline for what this thread does in the block over connections of a `DeadlineAdapter`.

    Raises:
        TimeoutError: it passed, whatever the block made of it.

    """
    deadline = Deadline()
    timer = threading.Timer(seconds, deadline.pass_by)
    timer.daemon = True  # the end of the program does not wait for it
    token = _deadline.set(deadline)
    timer.start()
    try:
        yield deadline
    except Exception as error:  # a socket that is shut under its reader raises what requests, urllib3 or TLS make of it
        if deadline.passed:
            raise TimeoutError from error
        raise
    finally:
        _deadline.reset(token)
        timer.cancel()
        timer.join()
    if deadline.passed:
        raise TimeoutError


class DeadlineAdapter(HTTPAdapter):
    """Opens connections that end with the deadline of the thread that uses them."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Sets the pool of direct connections up."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _Watched(HTTPConnection):
    def _new_conn(self) -> socket.socket:  # before TLS and before the way through a proxy
        opened = super()._new_conn()
        _watch(opened)
        return opened

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # else it is opened in a moment
            _watch(self.sock)
        super().request(*args, **kwargs)


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


_POOLS = {"http": _Pool, "https": _TlsPool}
_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)  # adapters pass no arguments through


def _watch(opened: Any) -> None:
    deadline = _deadline.get()
    if deadline is not None:
        deadline.watch(opened)


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not TLS's own, which is not for another thread
