"""What a killed node left on its disk, and which phase of which round that tells."""

import contextlib
import shutil
import signal
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from node.home import Home, read_status
from tests.faults.cluster import Cluster

BASES = ("state/journal.sqlite", "outbox.sqlite", "ipfs/pins.sqlite")


@dataclass(frozen=True)
class Left:
    """How far the round in flight had come."""

    round: int
    trained: bool  # its update is kept
    recorded: bool  # its record is in the outbox
    announced: bool
    saved: bool  # its snapshot is pinned
    waiting: int  # records that are not on the chain
    last_word: str  # of the log

    @property
    def phase(self) -> str:
        if not self.trained:
            return "training"
        if not self.recorded:
            return "committing"
        if not self.announced:
            return "recorded, not announced"
        if self.saved:
            return "saved, not over"
        return "mixing" if self.last_word == "killed before: mixed" else "gathering"


def left_by(home: Home, log: Path) -> Left:
    """Read from copies: the node, if it only stands still, may hold locks."""
    with tempfile.TemporaryDirectory() as place:
        for base in BASES:
            for path in (home.path / base).parent.glob(f"{Path(base).name}*"):
                if not path.name.endswith("-shm"):
                    shutil.copy2(path, place)
        journal, outbox, pins = (Path(place) / Path(base).name for base in BASES)
        round = 1 + (_one(journal, "select max(round) from checkpoint") or 0)
        member = read_status(home)["member"]
        return Left(
            round,
            bool(_one(journal, "select count(*) from updates where round = ?", round)),
            bool(_one(outbox, "select count(*) from records where round = ? and not closing", round)),
            bool(_one(journal, "select count(*) from announcements where round = ?", round)),
            bool(_one(pins, "select count(*) from pins where member = ? and round = ?", member, round)),
            _one(outbox, "select count(*) from records where block is null and not confirmed") or 0,
            (log.read_text(errors="replace").rstrip().splitlines() or [""])[-1],
        )


def _one(base: Path, query: str, *values: int) -> int | None:
    if not base.exists():
        return None
    with contextlib.closing(sqlite3.connect(base)) as db:
        return db.execute(query, values).fetchone()[0]


def kill_in(cluster: Cluster, name: str, phase: str, waiting: int = 1000) -> Left:
    """Kills a running node in this phase, with at most so many records on their way; what it left."""
    node, home = cluster.nodes[name], cluster.homes[name]
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline, left_by(home, node.log)
        if node.status()["state"] == phase:
            node.signal(signal.SIGSTOP)  # it may have gone on since it said so
            left = left_by(home, node.log)
            if left.phase == phase and left.waiting <= waiting:
                node.kill()
                return left
            node.signal(signal.SIGCONT)
        time.sleep(0.05)
