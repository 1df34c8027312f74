"""The finished runs behind docs/experiments.md, packed beside it: what took hours is not run again for a sentence.

Whoever doubts a table finds each seed's numbers here; `again` shows whether this code still gives them.
"""

import lzma
from pathlib import Path

from scripts.experiments.engine import NOTE

PACKED = ".xz"


def keep(results: Path, record: Path) -> None:
    """Packs the results into the record, in the place of what was there."""
    record.mkdir(parents=True, exist_ok=True)
    for old in record.iterdir():
        old.unlink()
    for path in sorted(results.glob("*.json*")):
        content = path.read_bytes()
        if path.suffix == ".jsonl":  # in the order in which runs ended, which says nothing
            content = b"".join(sorted(content.splitlines(keepends=True)))
        (record / f"{path.name}{PACKED}").write_bytes(lzma.compress(content, preset=9))
    if (results / NOTE).exists():
        (record / NOTE).write_bytes((results / NOTE).read_bytes())


def restore(record: Path, results: Path) -> bool:
    """Unpacks the record into a folder that has no results; whether there was something to do."""
    if not record.exists() or any(results.glob("*.json*")):
        return False
    results.mkdir(parents=True, exist_ok=True)
    for path in sorted(record.glob(f"*{PACKED}")):
        (results / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    if (record / NOTE).exists():
        (results / NOTE).write_bytes((record / NOTE).read_bytes())
    return True
