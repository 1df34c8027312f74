"""A node that is killed just before a write of its own: `FL_NODE_TEST_KILL=WRITE:COUNT python -m tests.mortal start …`.

WRITE names what is about to become durable: a file (`file checkpoint`) or a transaction by the first table that it
changes (`outbox insert records`, `pins insert pins of 3`: member 3's snapshot); COUNT is which of them, from 1.
`mixed` is no write: the moment at which a mix is known and nothing of it is on the disk.
Without the variable the node lives, and every write is a line in the file that FL_NODE_TEST_WRITES names.

Python tells of the files that take their name, SQLite of each statement that it begins: the node's own writes stay.
"""

import os
import re
import signal
import sqlite3
import sys
import threading
from collections import Counter
from pathlib import Path

from node.cli import main
from node.daemon.learner import TorchLearner

TABLES = re.compile(
    r"\s*(?:insert or replace into|insert or ignore into|insert into|update|delete from) (\w+)", re.IGNORECASE
)
PIN = re.compile(r"values \(x'[0-9a-f]*', '\d+', (\d+),", re.IGNORECASE)  # of a snapshot with its member
BASES = {"journal.sqlite": "journal", "outbox.sqlite": "outbox", "pins.sqlite": "pins"}


class Fate:
    """Which write is the last, and how many there have been."""

    def __init__(self, death: str | None, journal: str | None) -> None:
        name, _, count = (death or ":0").rpartition(":")
        self._death, self._journal = (name, int(count)), journal
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def meet(self, name: str) -> None:
        """Ends the process if its time has come."""
        with self._lock:
            self._seen[name] += 1
            if (name, self._seen[name]) == self._death:
                os.write(2, f"killed before: {name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            if self._journal:
                with open(self._journal, "a") as file:
                    file.write(f"{name}\n")


def name_of_file(target: str) -> str | None:
    """What a file is to the node that gives it its name; None for what may be lost."""
    path = Path(target)
    if path.parent.name == "payloads":
        return "file payload"
    if path.name.startswith("checkpoint-"):
        return "file checkpoint"
    return "file block" if path.suffix == ".data" else None


class Watched:
    """One connection: its transactions by the first table that they write to."""

    def __init__(self, base: str, fate: Fate) -> None:
        self._base, self._fate = base, fate
        self._within, self._first = False, ""

    def said(self, statement: str) -> None:
        """SQLite begins a statement."""
        word = statement.split(None, 1)[0].lower() if statement.strip() else ""
        if word == "begin":
            self._within, self._first = True, ""
        elif word in ("commit", "rollback"):
            if word == "commit" and self._first:
                self._fate.meet(self._first)
            self._within, self._first = False, ""
        elif found := TABLES.match(statement):
            owner = PIN.search(statement) if self._base == "pins" else None
            name = f"{self._base} {word} {found[1]}" + (f" of {owner[1]}" if owner else "")
            self._first = self._first or name
            if not self._within:
                self._fate.meet(name)
                self._first = ""


def watch(fate: Fate) -> None:
    """Has Python tell of every file and every database."""

    def heard(event: str, arguments: tuple) -> None:
        if event == "os.rename" and (name := name_of_file(os.fsdecode(arguments[1]))):
            fate.meet(name)

    sys.addaudithook(heard)
    connect, mix = sqlite3.connect, TorchLearner.mix

    def connected(path, *arguments, **options):
        connection = connect(path, *arguments, **options)
        if base := BASES.get(Path(path).name):
            connection.set_trace_callback(Watched(base, fate).said)
        return connection

    async def mixed(*arguments, **options):
        result = await mix(*arguments, **options)
        fate.meet("mixed")
        return result

    sqlite3.connect, TorchLearner.mix = connected, mixed


if __name__ == "__main__":
    watch(Fate(os.environ.get("FL_NODE_TEST_KILL"), os.environ.get("FL_NODE_TEST_WRITES")))
    main()
