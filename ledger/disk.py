"""What the SQLite files in a home have in common: columns that came later, and the cure for damage. Knows no table."""

import sqlite3

CURE = (
    "restore it from a backup, or leave only identity.key, keystore.json, passphrase and ipfs in the home and start: "
    "the node goes on from the ledger"
)


def add_column(db: sqlite3.Connection, table: str, column: str, type: str) -> None:
    """Gives a table of a file that an earlier version made a column that it lacks."""
    if column not in [row[1] for row in db.execute(f"pragma table_info({table})")]:
        db.execute(f"alter table {table} add column {column} {type}")
