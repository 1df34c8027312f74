"""Tables of simulations, for people and as CSV."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from node.cli.outputs import write_text
from node.dashboard.tables import percent
from node.simulation.results import Row, summary
from node.simulation.settings import SimulatedRound

SHOWN = ("common_accuracy", "own_accuracy", "std_over_members", "attacker_weight")
TITLES = ("accuracy (%)", "own (%)", "std over members (%)", "weight on attackers (%)")


def rounds_table(rounds: Sequence[SimulatedRound]) -> Table:
    """Loss and accuracy by round, mean over the members."""
    table = _table("round", "loss", *TITLES)
    for finished in rounds:
        seen = summary(finished)
        loss = "-" if seen["loss"] is None else f"{seen['loss']:.4f}"
        table.add_row(str(finished.round), loss, *(percent(seen[name]) for name in SHOWN))
    return table


def runs_table(rows: Sequence[Row]) -> Table:
    """Runs that differ only in their seed are one line: mean ± deviation. Columns are the settings that differ."""
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((name, row["settings"][name]) for name in varying(rows)), []).append(row)
    table = _table(*varying(rows), "seeds", *TITLES)
    for settings, group in groups.items():
        values = [Text(str(value)) for _, value in settings]  # no markup: a path may have brackets
        table.add_row(*values, str(len(group)), *(spread([row.get(name) for row in group]) for name in SHOWN))
    return table


def varying(rows: Sequence[Row]) -> list[str]:
    """The settings, but the seed, that are not the same in all rows."""
    names = [name for name in (rows[0]["settings"] if rows else ()) if name != "seed"]
    return [name for name in names if len({str(row["settings"][name]) for row in rows}) > 1]


def spread(values: Sequence[float | None]) -> str:
    """Percent, with the deviation over runs where there are several."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    deviation = f" ± {percent(statistics.stdev(numbers))}" if len(numbers) > 1 else ""
    return percent(statistics.fmean(numbers)) + deviation


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under a line of names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(table: Table, rows: Sequence[Mapping[str, Any]], path: Path | None) -> RenderableType:
    """What is shown: the table, or with `-` the rows as CSV in its place. Writes them to the file of another name.

    Raises ConfigError when that can't be written.
    """
    if path is None:
        return table
    if str(path) == "-":
        return escape(csv_text(rows).rstrip())
    write_text(path, csv_text(rows), "--csv")
    return table


def _table(*columns: str) -> Table:
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
