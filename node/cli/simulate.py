"""`fl-node simulate`: many virtual members in one process."""

import statistics
import time
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from node.cli.options import data_option
from node.cli.result import Result, answers
from node.dashboard.tables import percent
from node.simulation.run import SHARING, SimulatedRound, SimulationSettings
from node.simulation.run import simulate as run_simulation


@click.command()
@click.option("--task", default="mnist-softmax", show_default=True, help="A built-in task or FILE.py:NAME.")
@click.option("--members", default=4, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--cohort", type=click.IntRange(1), help="Peers asked in a round; default: everybody.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--split", default="iid", show_default=True, help="iid, unbalanced, dirichlet:ALPHA or shards:K.")
@click.option("--sharing", default="learned", show_default=True, type=click.Choice(SHARING))
@click.option("--objective", default="common", show_default=True, type=click.Choice(["common", "personal"]))
@click.option("--codec", default="float32", show_default=True, help="How updates are encoded.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0, 2**32 - 1))
@data_option
@answers
def simulate(**choices: Any) -> Result:
    """Run many virtual members in one process, from the node's own functions.

    \b
    Example: fl-node simulate --members 6 --split dirichlet:0.5 --sharing learned --rounds 20 --seed 7
    """
    settings = SimulationSettings(**choices)
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    started = time.perf_counter()
    rounds = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=settings.rounds)
        for finished in run_simulation(settings):
            rounds.append(finished)
            progress.advance(task)
    fields = {
        "rounds": [round_json(finished) for finished in rounds],
        **summary(rounds[-1]),
        "bytes_per_member_round": rounds[-1].payload_bytes * min(settings.cohort or settings.members, settings.members),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result(fields, rounds_table(rounds))


def summary(finished: SimulatedRound) -> dict[str, float | None]:
    """Mean and standard deviation of the members' accuracy on the common test set."""
    values = [metrics["accuracy"] for metrics in finished.metrics if "accuracy" in metrics]
    if not values:
        return {"common_accuracy": None, "std_over_members": None}
    return {"common_accuracy": statistics.fmean(values), "std_over_members": statistics.pstdev(values)}


def round_json(finished: SimulatedRound) -> dict[str, Any]:
    """One round for programs."""
    return {
        "round": finished.round,
        "members": [dict(metrics) for metrics in finished.metrics],
        "trust_rows": [{str(peer): weight for peer, weight in row.items()} for row in finished.rows],
    }


def rounds_table(rounds: list[SimulatedRound]) -> Table:
    """Loss and accuracy by round, mean over the members."""
    table = Table(header_style="bold")
    for column in ("round", "loss", "accuracy (%)", "std over members"):
        table.add_column(column, justify="right")
    for finished in rounds:
        loss = statistics.fmean(metrics["loss"] for metrics in finished.metrics)
        seen = summary(finished)
        cells = (percent(seen["common_accuracy"]), percent(seen["std_over_members"]))
        table.add_row(str(finished.round), f"{loss:.4f}", *cells)
    return table
