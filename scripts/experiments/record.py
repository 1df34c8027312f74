"""The finished runs behind docs/experiments.md, packed beside it: what took hours is not run again for a sentence.

Whoever doubts a table finds each seed's numbers here; `again` shows whether this code still gives them. Of the reported
runs all numbers are whole but those of the curves, which are for plots: half of what would be packed.
"""

import json
import lzma
from pathlib import Path
from typing import Any

from scripts.experiments.engine import NOTE

PACKED = ".xz"
REPORTED = "rows.jsonl"
DIGITS = 4  # of a curve's fractions: a hundredth of a point


def keep(results: Path, record: Path) -> None:
    """Packs the results into the record, in the place of what was there."""
    record.mkdir(parents=True, exist_ok=True)
    for old in record.iterdir():
        old.unlink()
    for path in sorted(results.glob("*.json*")):
        content = path.read_bytes()
        if path.name == REPORTED:
            rows = map(json.loads, content.splitlines())
            content = b"".join(f"{json.dumps(shortened(row))}\n".encode() for row in rows)
        if path.suffix == ".jsonl":  # in the order in which runs ended, which says nothing
            content = b"".join(sorted(content.splitlines(keepends=True)))
        (record / f"{path.name}{PACKED}").write_bytes(lzma.compress(content, preset=9))
    if (results / NOTE).exists():
        (record / NOTE).write_bytes((results / NOTE).read_bytes())


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A run with what is kept of its curves."""
    curves = {
        name: [value if value is None else round(value, DIGITS) for value in curve]
        for name, curve in row["curves"].items()
    }
    return {**row, "curves": curves}


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
