"""`fl-node experiment`: small measurements that anybody can repeat, from the node's own functions."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from node.cli.options import Finite, data_option
from node.cli.outputs import require_writable
from node.cli.result import Result, answers, note
from node.dashboard.plots import plot_privacy
from node.errors import ConfigError
from node.learning.exposure import Exposure, Setting, compare
from node.learning.membership import Leak


@click.group()
def experiment() -> None:
    """Measure what the node's parts achieve; each experiment is one command."""


@experiment.command()
@click.option("--task", default="mnist-softmax", show_default=True, help="A task with classes, or FILE.py:NAME.")
@click.option("--epsilons", default="1,3,8", show_default=True, help="Privacy budgets to compare with none at all.")
@click.option("--delta", default=1e-5, show_default=True, type=Finite(0, 1, min_open=True, max_open=True))
@click.option("--members", default=6, show_default=True, type=click.IntRange(2, 1000))
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--shadows", default=16, show_default=True, type=click.IntRange(2), help="Shadow models of the attacker.")
@click.option("--batch-size", default=400, show_default=True, type=click.IntRange(1), help="Of private members.")
@click.option("--learning-rate", default=1.0, show_default=True, type=Finite(0, min_open=True), help="Likewise.")
@click.option("--clip", default=1.0, show_default=True, type=Finite(0, min_open=True), help="Likewise.")
@click.option("--accountant", default="prv", show_default=True, type=click.Choice(["prv", "rdp"]))
@click.option(
    "--seed", "seeds", multiple=True, default=(0,), show_default=True, type=click.IntRange(0, 2**32 - 1),
    help="Several of them: as many sessions, and attacks that are judged together, by more examples.",
)  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot (PNG) to this file.")
@data_option
@answers
def privacy(epsilons: str, plot: Path | None, **options: Any) -> Result:
    """Attack updates by membership inference, with and without differential privacy, beside the accuracy.

    \b
    Example: fl-node experiment privacy --epsilons 1,3,8 --plot privacy.png --json
    """
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    started = time.perf_counter()
    setting = Setting(**options)
    if plot is not None:
        require_writable(plot, "--plot")
    rows = list(compare(setting, budgets(epsilons), note))
    if plot is not None:
        plot_privacy([asdict(row) for row in rows], plot)
    fields = {
        "rows": [asdict(row) for row in rows],
        "setting": {**asdict(setting), "data_dir": None if setting.data_dir is None else str(setting.data_dir)},
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Result(fields, table(rows))


def budgets(text: str) -> list[float]:
    """The numbers of a list like 1,3,8. ConfigError for anything else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"--epsilons {text}: numbers with commas between them, like 1,3,8") from error
    if not all(0 < epsilon < float("inf") for epsilon in found):
        raise ConfigError(f"--epsilons {text}: each has to be a positive number")
    return found


def table(rows: list[Exposure]) -> Table:
    """A line per budget; intervals are 95 %."""
    shown = Table(header_style="bold")
    columns = ("epsilon", "noise", "accuracy %", "loss attack: advantage %", "AUC", "shadow models: advantage %", "AUC")
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        noise = "–" if row.noise_multiplier is None else f"{row.noise_multiplier:.2f}"
        cells = [*_cells(row.loss_threshold), *_cells(row.shadow_models)]
        name = "none" if row.epsilon is None else f"{row.epsilon:g}"
        shown.add_row(name, noise, f"{100 * row.accuracy:.2f}", *cells)
    return shown


def _cells(leak: Leak) -> tuple[str, str]:
    (low, high), (least, most) = leak.advantage_interval, leak.auc_interval
    advantage = f"{100 * leak.advantage:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return advantage, f"{leak.auc:.3f} ({least:.3f} to {most:.3f})"
