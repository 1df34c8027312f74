"""What the SQLite files in a home have in common: columns that came later, damage and its cure. Knows no table."""

import sqlite3

CURE = (
    "restore it from a backup, or leave only identity.key, keystore.json, passphrase and ipfs in the home and start: "
    "the node goes on from the ledger"
)


def require_sound(db: sqlite3.Connection) -> None:
    """Reads every page of a file. Raises sqlite3.DatabaseError for one that is not what it was."""
    fault = db.execute("pragma quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise sqlite3.DatabaseError(" ".join(fault.split()))


def add_column(db: sqlite3.Connection, table: str, column: str, type: str) -> None:
    """Gives a table of a file that an earlier version made a column that it lacks."""
    if column not in [row[1] for row in db.execute(f"pragma table_info({table})")]:
        db.execute(f"alter table {table} add column {column} {type}")
