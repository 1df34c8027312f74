"""`fl-node simulate`: many virtual members in one process; several seeds and sweeps on several."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from node.cli.options import Finite, data_option
from node.cli.outputs import require_apart, require_writable
from node.cli.progress import watched
from node.cli.result import FAULT, Result, answers, note
from node.cli.simulation_tables import rounds_table, runs_table, shown
from node.cli.unused_options import given_options, require_one_place, require_simulated_use
from node.errors import ConfigError
from node.learning.splits import SPLITS, require_split
from node.simulation.attacks import KINDS
from node.simulation.cluster import on_ray, run_sweep_on_ray
from node.simulation.results import FIELDS, Row, key, over_seeds, row, summary
from node.simulation.run import SHARING
from node.simulation.run import simulate as run_simulation
from node.simulation.settings import (
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_MEMBERS,
    MOST_PRIOR,
    MOST_RATE,
    MOST_ROUNDS,
    SimulatedRound,
    SimulationSettings,
    require_graph,
)
from node.simulation.sweep_files import read_sweep
from node.simulation.sweeps import explained, in_processes, read_rows, row_of, run_sweep

BESIDE_SWEEP = ("sweep", "out", "processes", "ray", "csv", "data_dir", "as_json")


@click.command()
@click.option("--dataset", type=click.Choice(["mnist", "fashion", "cifar10"]), default="mnist", show_default=True)
@click.option("--model", type=click.Choice(["softmax", "cnn", "resnet18"]), default="softmax", show_default=True)
@click.option("--task", help="A task by name or FILE.py:NAME, instead of --dataset and --model.")
@click.option("--members", default=4, show_default=True, type=click.IntRange(1, MOST_MEMBERS))
@click.option(
    "--cohort",
    type=click.IntRange(1, MOST_MEMBERS),
    help="Peers asked in a round, if there are so many; default: all.",
)
@click.option("--topology", default="random", show_default=True, help="random cohorts, ring, or regular:K neighbours.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1, MOST_ROUNDS))
@click.option("--split", default="iid", show_default=True, help=f"{SPLITS}.")
@click.option("--sharing", default="learned", show_default=True, type=click.Choice(SHARING))
@click.option("--objective", default="common", show_default=True, type=click.Choice(["common", "personal"]))
@click.option("--attack", type=click.Choice(KINDS), help="What dishonest members do.")
@click.option("--attackers", default=0, show_default=True, type=click.IntRange(0), help="How many of the members.")
@click.option("--attackers-absent", is_flag=True, help="The same run without them, to compare with.")
@click.option("--codec", default="float32", show_default=True, help="How updates are encoded.")
@click.option(
    "--batch-size", type=click.IntRange(1, MOST_BATCH), help="Examples in a training step; default: the task's."
)
@click.option("--local-epochs", type=Finite(0, MOST_EPOCHS, min_open=True), help="Per round; default: the task's.")
@click.option("--learning-rate", type=Finite(0, MOST_RATE, min_open=True), help="Default: the task's.")
@click.option("--prior-strength", type=Finite(0, MOST_PRIOR), help="λ of the trust row; default: the objective's.")
@click.option("--held-out", is_flag=True, help="Measure on a part of the training set: for choosing settings.")
@click.option(
    "--seed", "seeds", multiple=True, default=(7,), show_default=True, type=click.IntRange(0, 2**32 - 1),
    help="Several of them give the mean and the deviation over seeds.",
)  # fmt: skip
@click.option("--sweep", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file of many runs.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False),
    help="A sweep's rows, one JSON line per run; those on file are not computed again. Default: runs/NAME.jsonl.",
)  # fmt: skip
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 1024), help="For several runs.")
@click.option("--ray", metavar="ADDRESS", help="Compute the runs on a Ray cluster; local: on one of this machine.")
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write a table of the rounds, or of the runs where there are several; - is standard output.",
)  # fmt: skip
@data_option
@answers
def simulate(**options: Any) -> Result:
    """Run many virtual members in one process, from the node's own functions.

    \b
    Example: fl-node simulate --dataset mnist --split dirichlet:0.5 --members 6 --sharing learned \\
                 --objective common --attack sign_flip --attackers 2 --rounds 20 --seed 7 --json
             fl-node simulate --split skewed:0.1 --seed 1 --seed 2 --seed 3 --processes 2 --csv -
             fl-node simulate --sweep sweep.toml --out runs/sweep.jsonl --processes 4
    """
    if options["csv"] is not None and str(options["csv"]) != "-":
        require_writable(options["csv"], "--csv")
    if str(options["csv"]) == "-" and "as_json" in given_options():
        raise ConfigError("--csv - beside --json: both are standard output, give --csv a file")
    if options["sweep"] is not None:
        require_alone(click.get_current_context())
        require_one_place(options)
        return sweep_result(options)
    require_graph(options["topology"])
    require_split(options["split"])
    require_simulated_use(options)
    names = SimulationSettings.__slots__
    chosen = {name: value for name, value in options.items() if name in names and name != "task"}
    task = options["task"] or f"{options['dataset']}-{options['model']}"
    runs = [SimulationSettings(task=task, seed=seed, **chosen) for seed in dict.fromkeys(options["seeds"])]
    return one_result(runs[0], options) if len(runs) == 1 else seeds_result(runs, options)


def require_alone(context: click.Context) -> None:
    """Raises ConfigError for options of a single run beside a sweep, whose file says these things.

    Those of the settings file, which is for other runs too, are only named.
    """
    ignored = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in BESIDE_SWEEP and source is ParameterSource.COMMANDLINE:
            raise ConfigError(f"{parameter.opts[0]} beside --sweep: write it into the sweep's file, under [base]")
        if name not in BESIDE_SWEEP and source is ParameterSource.DEFAULT_MAP:
            ignored.append(parameter.opts[0])
    if ignored:
        note(f"no notice is taken of {', '.join(ignored)} of the settings file: a sweep's own file says these things")


def one_result(settings: SimulationSettings, options: dict[str, Any]) -> Result:
    """A single run, watched round by round."""
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    started = time.perf_counter()
    rounds: list[SimulatedRound] = []
    with watched("round") as watch, explained():
        watch(0, settings.rounds)
        for finished in run_simulation(settings):
            rounds.append(finished)
            watch(len(rounds), settings.rounds)
    found = row(settings, rounds, time.perf_counter() - started)
    lines = [{"round": seen.round, **summary(seen)} for seen in rounds]
    return Result({name: found[name] for name in FIELDS}, shown(rounds_table(rounds), lines, options["csv"]))


def seeds_result(runs: list[SimulationSettings], options: dict[str, Any]) -> Result:
    """The same run with several seeds: mean and deviation."""
    started = time.perf_counter()
    local = in_processes(runs, options["processes"])
    rows: list[Row] = []
    with watched("run") as watch, closing(on_ray(runs, options["ray"]) if options["ray"] else local) as computed:
        watch(0, len(runs))
        for found in computed:
            rows.append(row_of(found))
            watch(len(rows), len(runs))
    rows.sort(key=lambda row: row["settings"]["seed"])
    numbers = [{name: row[name] for name in FIELDS} for row in rows]
    fields = {
        **over_seeds(numbers),
        "runs": [{"seed": row["settings"]["seed"], **found} for row, found in zip(rows, numbers, strict=True)],
        "seconds": round(time.perf_counter() - started, 3),
    }
    return table_result(fields, rows, options)


def sweep_result(options: dict[str, Any]) -> Result:
    """All runs of a sweep's file; those that are on file already are not computed again."""
    started = time.perf_counter()
    runs = read_sweep(options["sweep"], options["data_dir"])
    out: Path = options["out"] or Path("runs") / f"{options['sweep'].stem}.jsonl"
    require_apart({"--sweep": options["sweep"], "--out": out, "--csv": options["csv"]})
    with watched("run") as watch:
        if options["ray"]:
            failed = run_sweep_on_ray(runs, out, options["ray"], watch)
        else:
            failed = run_sweep(runs, out, options["processes"], watch)
    on_file = {row["key"]: row for row in read_rows(out)}  # in the order in which runs ended
    rows = [on_file[wanted] for wanted in map(key, runs) if wanted in on_file]
    reasons = [str(each) for each in failed]
    seconds = round(time.perf_counter() - started, 3)
    fields = {"runs": len(runs), "failed": reasons, "out": str(out), "seconds": seconds}
    return with_failures(table_result(fields, rows, options), reasons)


def with_failures(result: Result, failed: list[str]) -> Result:
    """The answer with the runs that failed, and the exit status of what could not be done."""
    if not failed:
        return result
    lines = [f"{len(failed)} runs failed, the others are on file; mend their settings and start it again:", *failed]
    return replace(result, status=FAULT, notes=(*result.notes, *lines))


def table_result(fields: dict[str, Any], rows: list[Row], options: dict[str, Any]) -> Result:
    """The answer of several runs, and their table on file if it was asked for."""
    lines = [{**row["settings"], **flat(row)} for row in rows]
    return Result(fields, shown(runs_table(rows), lines, options["csv"]))


def flat(row: Row) -> Row:
    """A row's single numbers."""
    return {name: value for name, value in row.items() if name not in ("key", "settings", "curves")}
