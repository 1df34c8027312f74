"""A node's home directory: where its files are, who may use it, which session it belongs to; knows no room."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from node.errors import HomeError
from node.files import write_atomically

KEEP_ROUNDS = 1000  # in a status


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of a home directory."""

    path: Path

    @property
    def identity(self) -> Path:
        """The libp2p key, Protocol Buffers, mode 0600."""
        return self.path / "identity.key"

    @property
    def keystore(self) -> Path:
        """The Ethereum account, an encrypted keystore, mode 0600."""
        return self.path / "keystore.json"

    @property
    def passphrase(self) -> Path:
        """The keystore's passphrase, if the operator lets it lie here."""
        return self.path / "passphrase"

    @property
    def noise_key(self) -> Path:
        """The secret of this node's private training, 32 bytes, mode 0600."""
        return self.path / "noise.key"

    @property
    def outbox(self) -> Path:
        """Records on their way to the chain (SQLite)."""
        return self.path / "outbox.sqlite"

    @property
    def state(self) -> Path:
        """Checkpoint and payloads."""
        return self.path / "state"

    @property
    def spool(self) -> Path:
        """Large payloads on their way; on the same disk as `state`."""
        return self.path / "spool"

    @property
    def data(self) -> Path:
        """Data that a coordinator serves, or that came from it."""
        return self.path / "data"

    @property
    def ipfs(self) -> Path:
        """The embedded IPFS store."""
        return self.path / "ipfs"

    @property
    def status(self) -> Path:
        """What `fl-node status` shows."""
        return self.path / "status.json"

    @property
    def lock(self) -> Path:
        """Held by a running node; contains its process id."""
        return self.path / "node.lock"

    @property
    def binding(self) -> Path:
        """Which session this home belongs to."""
        return self.path / "session.json"

    @property
    def session_file(self) -> Path:
        """The session file, as this node started with it."""
        return self.path / "session.toml"

    def session_key(self, session_id: int) -> Path:
        """The key of a sealed session, mode 0600."""
        return self.path / f"session-{session_id:016x}.key"

    def session_keys(self) -> list[Path]:
        """The keys of sealed sessions that are here."""
        return sorted(self.path.glob("session-*.key"))

    @property
    def evidence(self) -> Path:
        """Signed contradictions of other members."""
        return self.path / "evidence"


def open_home(path: Path) -> Home:
    """The home at `path`; HomeError if `fl-node init` never made it."""
    home = Home(path)
    if not holds(home, home.identity, home.keystore):
        raise HomeError(f"{path} is not the home of a node: make it with `fl-node init --home {path}`")
    return home


def open_place(path: Path) -> Home:
    """The home of a node or a tracker at `path`; HomeError if there is none."""
    home = Home(path)
    if not holds(home, home.identity):
        raise HomeError(f"{path} is not the home of a node or a tracker: make one with `fl-node init --home {path}`")
    return home


def holds(home: Home, *files: Path) -> bool:
    """Whether a home has all of these files. HomeError if nobody can say."""
    try:
        return all(file.is_file() for file in files)
    except OSError as error:
        raise HomeError(f"{home.path} cannot be read ({error.strerror}): mend that, or use another --home") from error


@contextmanager
def lock_home(home: Home) -> Iterator[None]:
    """Holds the home while the block runs; HomeError names the process that has it already."""
    with _opened_lock(home) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = running_pid(home)
            raise HomeError(
                f"{home.path} is in use by a running node (process {pid}): "
                f"stop it with `fl-node stop --home {home.path}`, or use another --home"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def _opened_lock(home: Home) -> TextIO:
    try:
        return home.lock.open("a+")
    except OSError as error:
        raise HomeError(f"{home.lock} cannot be written ({error.strerror}): mend that, then start again") from error


def running_pid(home: Home) -> int | None:
    """The process id of the node that runs in this home, None if none does."""
    try:
        with home.lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else 0
    except FileNotFoundError:
        pass
    return None


def bind_home(home: Home, session_id: int, name: str) -> None:
    """Makes this the home of one session; HomeError if it belongs to another."""
    mine = f"{session_id:016x}"
    try:
        bound = json.loads(home.binding.read_text())
        known, known_name = str(bound["session"]), str(bound["name"])
    except FileNotFoundError:
        write_atomically(home.binding, json.dumps({"session": mine, "name": name}).encode())
        return
    except (ValueError, KeyError, TypeError) as error:
        cure = f"remove it if this is the home of session {mine} ({name}), else use another --home"
        raise HomeError(f"{home.binding} is damaged ({error}): {cure}") from error
    if known != mine:
        raise HomeError(
            f"{home.path} belongs to session {known} ({known_name}), not {mine} ({name}): use another --home"
        )


def keep_session_file(home: Home, content: bytes) -> None:
    """Keeps the session file of a home that is bound to its session, for commands that name only the home."""
    if not home.session_file.is_file() or home.session_file.read_bytes() != content:
        write_atomically(home.session_file, content)


def read_status(home: Home) -> dict[str, Any]:
    """What the node last wrote about itself; empty before its first start."""
    try:
        status = json.loads(home.status.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HomeError(f"{home.status} is damaged ({error}): restart the node") from error
    return status if isinstance(status, dict) else {}
