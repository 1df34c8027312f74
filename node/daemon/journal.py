"""The node's disk between rounds: checkpoint, own payloads, own announcements; knows no tensors and no network.

One SQLite database says which files count; a file is written and synced before the row that names it, so after kill -9
the old or the new state is there, whole.
"""

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ledger.disk import CURE, add_column, require_sound
from node.errors import HomeError
from node.files import Piece, clear_temporaries, move_durably, sha256_of_file, write_atomically
from node.learning.vectors import sha256_of
from node.messages import Announcement, Input, Mix
from node.session.ports import Payload

log = logging.getLogger(__name__)

IN_MEMORY = 64 << 20  # bytes of a payload; larger ones stay files
SCHEMA = """
create table if not exists checkpoint (
  only integer primary key check (only = 1), round integer not null, file text not null, sha256 blob not null,
  mix text not null, closed integer not null default 0, mix_sha256 blob);
create table if not exists updates (
  round integer primary key, sha256 blob not null, size integer not null, note blob not null default x'');
create table if not exists recorded (
  only integer primary key check (only = 1), round integer not null, sha256 blob not null);
create table if not exists loss (only integer primary key check (only = 1));
create table if not exists announcements (
  round integer primary key, session blob not null, sha256 blob not null, size integer not null, codec text not null,
  peer_id text not null, signature blob not null, note blob not null default x'');
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The end of a round: the learner's state, the mix, and whether a closing record already carries the mix."""

    round: int
    path: Path
    mix: Mix
    closed: bool

    @property
    def state(self) -> bytes:
        """All of it in memory."""
        return self.path.read_bytes()


class Journal:
    """Synchronous; every method is one durable step. Safe to call from several threads."""

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens the journal in `directory`, keeping the payloads of the last `keep` rounds that it took part in."""
        self._directory, self._keep, self._lock = directory, keep, threading.Lock()
        (directory / "payloads").mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "journal.sqlite"
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(SCHEMA)
            add_column(self._db, "updates", "note", "blob not null default x''")
            add_column(self._db, "announcements", "note", "blob not null default x''")
            add_column(self._db, "checkpoint", "mix_sha256", "blob")
            require_sound(self._db)
        except sqlite3.DatabaseError as error:
            raise HomeError(f"{path} is damaged ({error}): {CURE}") from error

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("begin immediate")
                yield self._db
                self._db.execute("commit")
            except sqlite3.Error as error:
                path = self._directory / "journal.sqlite"
                raise HomeError(f"{path} cannot be written ({error}): mend that, then start again") from error
            finally:
                if self._db.in_transaction:  # with a full disk SQLite has rolled back already
                    self._db.execute("rollback")

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, None on an empty disk. HomeError if its file is not what was written."""
        with self._lock:
            row = self._db.execute("select round, file, sha256, mix, closed, mix_sha256 from checkpoint").fetchone()
        if row is None:
            return None
        round, name, digest, mix, closed, mix_digest = row
        path = self._directory / name
        if not path.is_file():
            raise HomeError(f"the checkpoint {path} is missing: {CURE}")
        if sha256_of_file(path) != digest:
            raise HomeError(f"the checkpoint {path} is corrupt: {CURE}")
        if mix_digest is not None and hashlib.sha256(mix.encode()).digest() != mix_digest:
            raise HomeError(f"the mix of round {round} in {self._directory}/journal.sqlite is corrupt: {CURE}")
        return Checkpoint(round, path, mix_of(json.loads(mix)), bool(closed))

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self._directory

    def save_checkpoint(self, mix: Mix, state: bytes | Sequence[Piece], closed: bool = False) -> None:
        """Keeps the end of a round; the one before is forgotten. `closed`: no record is to carry its mix any more."""
        pieces = [state] if isinstance(state, bytes) else state
        digest = sha256_of(pieces)
        name = f"checkpoint-{mix.round}-{digest.hex()[:16]}.safetensors"  # another state of the round leaves this one
        write_atomically(self._directory / name, pieces)
        text = json.dumps(asdict(mix), default=bytes.hex)
        row = (mix.round, name, digest, text, closed, hashlib.sha256(text.encode()).digest())
        query = "insert or replace into checkpoint (only, round, file, sha256, mix, closed, mix_sha256)"
        with self._transaction() as db:
            db.execute(f"{query} values (1, ?, ?, ?, ?, ?, ?)", row)
        for old in self._directory.glob("checkpoint-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def save_mixless(self, round: int, state: bytes | Sequence[Piece]) -> None:
        """Keeps the end of a round without a mix: its mix is on the ledger, or will never be."""
        self.save_checkpoint(Mix(round, 0, (), bytes(32), None), state, closed=True)

    def mark_closed(self) -> None:
        """Notes that the checkpoint's mix is in a closing record."""
        with self._transaction() as db:
            db.execute("update checkpoint set closed = 1")

    def save_recorded(self, round: int, digest: bytes) -> None:
        """Notes an update that the ledger has from an earlier disk of this node: it is not recorded again."""
        with self._transaction() as db:
            db.execute("insert or replace into recorded values (1, ?, ?)", (round, digest))

    def recorded(self) -> tuple[int, bytes] | None:
        """(round, SHA-256) of the last update that an earlier disk of this node recorded."""
        with self._lock:
            row = self._db.execute("select round, sha256 from recorded").fetchone()
        return None if row is None else (row[0], row[1])

    def begin_loss(self) -> None:
        """Notes that an earlier disk of this node is lost, and that what it announced has still to be asked for."""
        with self._transaction() as db:
            db.execute("insert or replace into loss values (1)")

    def end_loss(self) -> None:
        """Notes that the rounds which the lost disk announced are left out."""
        with self._transaction() as db:
            db.execute("delete from loss")

    def in_loss(self) -> bool:
        """Whether `end_loss` is still to come, also after a kill."""
        with self._lock:
            return self._db.execute("select 1 from loss").fetchone() is not None

    def promised(self, round: int) -> bytes | None:
        """The SHA-256 of a round's update, whole or not; None if there was none."""
        with self._lock:
            row = self._db.execute("select sha256 from updates where round = ?", (round,)).fetchone()
        return None if row is None else bytes(row[0])

    def payload_path(self, digest: bytes) -> Path:
        """Where a payload of this hash lies, if it does."""
        return self._directory / "payloads" / digest.hex()

    def save_update(self, round: int, payload: Payload, digest: bytes, note: bytes = b"") -> None:
        """Keeps the payload of a round's update, and forgets those beyond the window; a file is taken over as it is.

        `note` is what is to be announced with it.
        """
        path = self.payload_path(digest)
        if not isinstance(payload, Path):
            write_atomically(path, [payload])
        elif payload != path:
            move_durably(payload, path)
        with self._transaction() as db:
            row = (round, digest, path.stat().st_size, note)
            db.execute("insert or replace into updates (round, sha256, size, note) values (?, ?, ?, ?)", row)
            query = "select round, sha256 from updates order by round desc limit -1 offset ?"
            old = db.execute(query, (self._keep,)).fetchall()
            for outdated, _ in old:
                db.execute("delete from updates where round = ?", (outdated,))
                db.execute("delete from announcements where round <= ?", (outdated,))
            kept = {row[0] for row in db.execute("select sha256 from updates")}
        for _, forgotten in old:
            if forgotten not in kept:  # a coordinator's model may be that of an earlier round
                self.payload_path(forgotten).unlink(missing_ok=True)

    def update(self, round: int) -> tuple[Payload, bytes] | None:
        """(payload, SHA-256) of a round's update, a large one as its file; None if there is none or it was damaged."""
        digest = self.promised(round)
        if digest is None:
            return None
        path = self.payload_path(digest)
        if not path.is_file() or sha256_of_file(path) != digest:
            log.warning("the update of round %d on disk is damaged: it is trained again", round)
            return None
        return path if path.stat().st_size > IN_MEMORY else path.read_bytes(), digest

    def forget_leftovers(self) -> None:
        """Removes what a killed node left here that no row names: halves of files, and payloads of no update."""
        with self._lock:
            kept = {row[0].hex() for row in self._db.execute("select sha256 from updates")}
        clear_temporaries(self._directory)
        payloads = self._directory / "payloads"
        clear_temporaries(payloads)
        for path in payloads.iterdir():
            if path.is_file() and path.name not in kept:
                path.unlink()

    def forget_damaged(self) -> None:
        """Removes kept payloads that are not what they were: others would take them for lies.

        That there was an update of the round stays known.
        """
        with self._lock:
            rows = self._db.execute("select round, sha256 from updates order by round").fetchall()
        for round, digest in rows:
            path = self.payload_path(digest)
            if path.is_file() and sha256_of_file(path) != digest:
                log.warning("the update of round %d on disk is damaged: it is not given to anybody", round)
                path.unlink()

    def note(self, round: int) -> bytes:
        """What was kept with a round's update, to be announced with it; empty if nothing was."""
        with self._lock:
            row = self._db.execute("select note from updates where round = ?", (round,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def last_round(self) -> int:
        """The newest round of which this journal knows anything, whole or not; 0 if of none."""
        checkpoint, recorded = self.checkpoint(), self.recorded()
        known = (0 if checkpoint is None else checkpoint.round, 0 if recorded is None else recorded[0])
        return max(self.last_trained(), *known)

    def last_trained(self) -> int:
        """The newest round of which there is or was an update; 0 if of none."""
        with self._lock:
            return self._db.execute("select max(round) from updates").fetchone()[0] or 0

    def newest_update(self, before: int = 2**62) -> tuple[int, Payload, bytes] | None:
        """(round, payload, SHA-256) of the newest update of a round `before` that is whole; None if there is none."""
        query = "select round from updates where round < ? order by round desc"
        with self._lock:
            rounds = [row[0] for row in self._db.execute(query, (before,))]
        for round in rounds:
            found = self.update(round)
            if found is not None:
                return round, *found
        return None

    def save_announcement(self, announcement: Announcement) -> None:
        """Keeps a signed announcement for peers that ask later."""
        a = announcement
        row = (a.round, a.session_id.to_bytes(8, "big"), a.digest, a.size, a.codec, a.peer_id, a.signature, a.note)
        with self._transaction() as db:
            db.execute("insert or replace into announcements values (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def forget_announcement(self, round: int) -> None:
        """Takes back what was announced for a round."""
        with self._transaction() as db:
            db.execute("delete from announcements where round = ?", (round,))

    def is_announced(self, digest: bytes) -> bool:
        """Whether a payload of this hash was announced, and is still kept."""
        with self._lock:
            return self._db.execute("select 1 from announcements where sha256 = ?", (digest,)).fetchone() is not None

    def announcements(self, since: int) -> Sequence[Announcement]:
        """The announcements of round `since` and later, ascending."""
        query = (
            "select session, round, sha256, size, codec, peer_id, signature, note from announcements where round >= ?"
        )
        with self._lock:
            rows = self._db.execute(query + " order by round", (since,)).fetchall()
        return [Announcement(int.from_bytes(row[0], "big"), *row[1:]) for row in rows]


def mix_of(fields: dict[str, object]) -> Mix:
    """A mix from its JSON form."""
    inputs = tuple(Input(**entry) for entry in fields.pop("inputs"))  # type: ignore[attr-defined]
    mixed_hash = bytes.fromhex(str(fields.pop("mixed_hash")))
    return Mix(inputs=inputs, mixed_hash=mixed_hash, **fields)  # type: ignore[arg-type]
