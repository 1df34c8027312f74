"""The narrow door to an Ethereum node: JSON-RPC over HTTP, bounded in time and size. Knows no contract, no account."""

import http.client
import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
import urllib3

from ledger.deadline import DeadlineAdapter, within
from ledger.errors import ChainUnreachable, RpcRefused

LARGEST_ANSWER = 512 * 1024 * 1024
"""Bytes; a page of 20,000 records of 64 peers has some 40 MB."""

_CHUNK = 1 << 20
_REASONS: dict[type[BaseException], str] = {
    ConnectionRefusedError: "nothing listens at that host and port",
    ConnectionResetError: "it broke the connection off",
    http.client.HTTPException: "it broke the connection off, or speaks no HTTP",
    socket.gaierror: "there is no such host",
    ssl.SSLError: "its TLS is none that can be trusted; did you mean http://?",
}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Rpc:
    """One node's JSON-RPC endpoint. Thread-safe.

    Every call ends within about twice `timeout` seconds, whatever the server sends; redirects are not followed.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url
        self.timeout = timeout
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter())
        self._session.trust_env = _host_of(url) not in _LOOPBACK  # no proxy on the way to this machine

    def call(self, method: str, *params: Any) -> Any:
        """The result of one call.

        Raises:
            ChainUnreachable: no answer in time, or one that is not JSON-RPC.
            RpcRefused: the node answered with an error.

        """
        answer = self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, method)
        return self._result(answer, method)

    def batch(self, method: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        """The results of many calls of one method, in order, in one request."""
        if not params:
            return []
        calls = [{"jsonrpc": "2.0", "id": i, "method": method, "params": p} for i, p in enumerate(params)]
        answers = self._post(calls, method)
        if isinstance(answers, dict):
            self._result(answers, method)
        by_id = {one.get("id"): one for one in answers if isinstance(one, dict)} if isinstance(answers, list) else {}
        return [self._result(by_id.get(i), method) for i in range(len(params))]

    def _result(self, answer: Any, method: str) -> Any:
        if isinstance(answer, dict) and "error" in answer:
            raise _refusal(self.url, method, answer["error"])
        if not isinstance(answer, dict) or "result" not in answer:
            raise ChainUnreachable(f"{self.url} answers {method} with {str(answer)[:80]!r}: it is no Ethereum RPC")
        return answer["result"]

    def _post(self, body: Any, method: str) -> Any:
        headers = {"Content-Type": "application/json"}
        try:
            with within(self.timeout), self._send(orjson.dumps(body), headers) as answer:
                content = self._read(answer)
        except (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError) as error:
            raise ChainUnreachable(
                f"{self.url} did not answer {method} within {self.timeout:g} s: is it up?"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError, ValueError) as error:
            raise ChainUnreachable(
                f"{self.url} can't be reached ({_cause(error)}): is the URL right, is it up?"
            ) from error
        if answer.is_redirect:
            where = answer.headers["Location"][:200]
            raise ChainUnreachable(f"{self.url} leads on to {where!r}: give the URL that answers itself")
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            status = f"HTTP {answer.status_code}, {content[:60]!r}"
            raise ChainUnreachable(f"{self.url} answers with {status}: it is no Ethereum RPC, check the URL") from error

    def _send(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        return self._session.post(
            self.url, data=body, headers=headers, timeout=self.timeout, stream=True, allow_redirects=False
        )

    def _read(self, answer: requests.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := answer.raw.read1(_CHUNK, decode_content=True):  # what is there: a full chunk may never come
            parts.append(chunk)
            size += len(chunk)
            if size > LARGEST_ANSWER:
                raise ChainUnreachable(
                    f"{self.url} sent over {LARGEST_ANSWER} bytes for one call: ask for fewer blocks"
                )
        return b"".join(parts)


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        pass
    raise ChainUnreachable(f"{url!r} is no RPC URL: give one such as http://127.0.0.1:8545")


def _refusal(url: str, method: str, error: Any) -> RpcRefused:
    if not isinstance(error, dict):
        return RpcRefused(f"{url} refuses {method}: {str(error)[:200]}")
    code = error.get("code")
    message = f"{url} refuses {method}: {str(error.get('message'))[:300]} (code {code})"
    return RpcRefused(message, code if isinstance(code, int) else 0, _revert_data(error.get("data")))


def _revert_data(found: Any) -> str | None:
    """The revert data: Anvil and geth put it at the top, Hardhat one level down."""
    if isinstance(found, dict):
        found = found.get("data")
    return found if isinstance(found, str) and found.startswith("0x") else None


def _cause(error: BaseException) -> str:
    """The innermost reason in words, without the libraries' wrapping and without numbers of the operating system."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    for kind, words in _REASONS.items():
        if isinstance(error, kind):
            return words
    said = error.strerror if isinstance(error, OSError) else str(error)
    return (said or type(error).__name__)[:120]
