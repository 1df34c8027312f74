"""The one door to a Kubo daemon: its HTTP RPC as synchronous functions, bounded, with our errors. Knows no snapshots.

`ipfshttpclient.connect()` refuses every daemon since Kubo 0.8, so `Client` is used. Where its methods are broken or
unbounded (`swarm.connect` sends each character as an argument, `cat` returns everything at once, and no deadline
reaches the daemon) the request goes through its `_client.request`.
"""

import ipaddress
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import ipfshttpclient
import requests

from node.errors import ContentMissing, StorageError
from node.storage.unixfs import CHUNK, WIDTH

_SENT_AT_ONCE = 1 << 18
_DIGITS = 20  # of a number of bytes
_CURE = "start it (`ipfs daemon`), correct --ipfs, or leave --ipfs out to use the embedded store"


class KuboRpc:
    """Commands of one daemon. Each waits at most `seconds` for the daemon's next byte; callers use a thread."""

    def __init__(self, url: str, seconds: float) -> None:
        address, auth = daemon_address(url)
        # urllib3 2 warns at each request about an argument that ipfshttpclient passes and that has no effect any more
        warnings.filterwarnings("ignore", message="The 'strict' parameter", category=FutureWarning)
        self.url = _without_password(url)
        self._seconds = seconds
        with self._errors("connecting"):
            self._client = ipfshttpclient.Client(address, timeout=seconds, auth=auth, chunk_size=_SENT_AT_ONCE)

    def version(self) -> str:
        """The daemon's version; proves that it answers."""
        return str(self._json("version")[0].get("Version", "unknown"))

    def add_directory(self, directory: Path) -> str:
        """CID, in whatever base the daemon prefers, of the directory, added and pinned as docs/protocol.md says."""
        with self._errors("add"):
            answer = self._client.add(
                str(directory),
                recursive=True,
                pin=True,
                cid_version=1,
                raw_leaves=True,
                chunker=f"size-{CHUNK}",
                opts={"max-file-links": str(WIDTH), "timeout": self._timeout},
            )
            told = [item for item in map(_fields, answer) if item.get("Name") == directory.name and "Hash" in item]
            if not told:  # a fault after the first file, such as a full disk, has no status any more: the list ends
                raise StorageError(f"Kubo at {self.url} added only a part: look at its log and disk")
            return str(told[0]["Hash"])

    def pin(self, cid: str) -> None:
        """Pins the DAG, which the daemon fetches from its peers as needed. Raises ContentMissing."""
        with self._errors(f"pin add {cid}", missing=True):
            self._json("pin/add", cid)

    def unpin(self, cid: str) -> None:
        """Removes the pin; a pin that the user removed already is no error."""
        try:
            with self._errors(f"pin rm {cid}", missing=True):
                self._json("pin/rm", cid)
        except ContentMissing:
            return

    def pinned(self) -> list[str]:
        """All recursive pins of the daemon, whoever made them."""
        with self._errors("pin ls"):
            keys = self._field("pin/ls", "Keys", dict, type="recursive") or {}
            return [str(key) for key in keys]

    def block(self, cid: str, limit: int) -> bytes:
        """A block, not verified. Raises ContentMissing."""
        return b"".join(self._stream("block/get", cid, limit))

    def own_block(self, cid: str, limit: int) -> bytes:
        """A block that the daemon has, not verified; it asks nobody for it. Raises ContentMissing."""
        return b"".join(self._stream("block/get", cid, limit, offline="true"))

    def cat(self, cid: str, limit: int) -> Iterator[bytes]:
        """A file's content in parts, not verified. Raises ContentMissing, StorageError above `limit` bytes."""
        return self._stream("cat", cid, limit)

    def collect(self) -> int:
        """Blocks that the daemon removed: all that nothing in it pins, whoever added them."""
        return sum("Key" in item for item in self._json("repo/gc"))

    def size(self) -> int:
        """Bytes of the daemon's repository: a number from Kubo, its digits from js-ipfs."""
        size = self._field("repo/stat", "RepoSize", (int, str)) or 0
        if not str(size).isdecimal() or len(str(size)) > _DIGITS:
            raise self._no_daemon({"RepoSize": size})
        return int(size)

    def connect(self, address: str) -> None:
        """Connects the daemon to a peer (`/ip4/…/tcp/…/p2p/…`), so that it can fetch from it."""
        self._json("swarm/connect", address)

    def addresses(self) -> list[str]:
        """Where the daemon's own bitswap can be reached."""
        return [str(address) for address in self._field("id", "Addresses", list) or []]

    @property
    def _timeout(self) -> str:
        return f"{max(1, round(self._seconds))}s"

    def _json(self, command: str, *arguments: str, **options: str) -> list[Any]:
        with self._errors(command):
            sent = {**options, "timeout": self._timeout}
            answer = self._client._client.request(f"/{command}", arguments, opts=sent, decoder="json")
            if not all(isinstance(item, dict) for item in answer):
                raise self._no_daemon(answer)
            return list(answer) or [{}]

    def _field(self, command: str, name: str, kinds: type | tuple[type, ...], **options: str) -> Any:
        """What the daemon says under a name, of one of these types; None where it says nothing."""
        value = self._json(command, **options)[0].get(name)
        if value is not None and not isinstance(value, kinds):
            raise self._no_daemon({name: value})
        return value

    def _no_daemon(self, answer: object) -> StorageError:
        return StorageError(f"what answers at {self.url} is no Kubo daemon ({str(answer)[:60]}): {_CURE}")

    def _stream(self, command: str, cid: str, limit: int, **more: str) -> Iterator[bytes]:
        received = 0
        options = {"timeout": self._timeout, **more}
        with self._errors(f"{command} {cid}", missing=True):
            request = self._client._client.request
            with closing(request(f"/{command}", (cid,), opts=options, decoder="none", stream=True)) as parts:
                for part in parts:
                    received += len(part)
                    if received > limit:
                        raise StorageError(f"{cid} has more than the {limit:,} bytes allowed: raise the limit")
                    yield part

    @contextmanager
    def _errors(self, doing: str, missing: bool = False) -> Iterator[None]:
        """Foreign errors as ours; with `missing`, the daemon's refusal means that it cannot get the content."""
        try:
            yield
        except ipfshttpclient.exceptions.ErrorResponse as error:
            if missing:
                raise ContentMissing(
                    f"Kubo at {self.url} could not do {doing} ({error}): connect it to a peer"
                ) from error
            raise StorageError(f"Kubo at {self.url} refused {doing} ({error}): look at its log") from error
        except (ipfshttpclient.exceptions.Error, requests.RequestException) as error:
            reason = type(error).__name__
            raise StorageError(f"Kubo at {self.url} did not do {doing} ({reason}): {_CURE}") from error


def _fields(item: Any) -> Mapping[str, Any]:
    """An item of an answer, as ipfshttpclient wraps it; empty if it is no object."""
    raw = item.as_json()
    return raw if isinstance(raw, dict) else {}


def daemon_address(url: str) -> tuple[str, tuple[str, str] | None]:
    """Multiaddr of the RPC, and (user, password) if the URL has them. Raises StorageError for what is neither."""
    if url.startswith("/"):
        return url, None
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 5001)
    except ValueError as error:
        raise _bad_address(url) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") not in ("", "/api/v0"):
        raise _bad_address(url)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return f"/{_host_protocol(parts.hostname)}/{parts.hostname}/tcp/{port}/{parts.scheme}", auth


def _host_protocol(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _bad_address(url: str) -> StorageError:
    form = "give http://HOST:PORT or a multiaddr such as /ip4/127.0.0.1/tcp/5001/http"
    return StorageError(f"Kubo address {_without_password(url)!r} is not understood: {form}")


def _without_password(url: str) -> str:
    scheme, at, host = url.rpartition("@")
    return f"{scheme.partition('//')[0]}//…@{host}" if at else url
