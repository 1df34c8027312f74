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
from node.simulation.attacks import ATTACKS
from node.simulation.run import SHARING
from node.simulation.run import simulate as run_simulation
from node.simulation.settings import SimulatedRound, SimulationSettings


@click.command()
@click.option("--dataset", type=click.Choice(["mnist", "fashion"]), default="mnist", show_default=True)
@click.option("--model", type=click.Choice(["softmax", "cnn"]), default="softmax", show_default=True)
@click.option("--task", help="A task by name or FILE.py:NAME, instead of --dataset and --model.")
@click.option("--members", default=4, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--cohort", type=click.IntRange(1), help="Peers asked in a round; default: everybody.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--split", default="iid", show_default=True, help="iid, unbalanced, dirichlet:ALPHA or shards:K.")
@click.option("--sharing", default="learned", show_default=True, type=click.Choice(SHARING))
@click.option("--objective", default="common", show_default=True, type=click.Choice(["common", "personal"]))
@click.option("--attack", type=click.Choice(ATTACKS), help="What dishonest members do.")
@click.option("--attackers", default=0, show_default=True, type=click.IntRange(0), help="How many, the last of all.")
@click.option("--codec", default="float32", show_default=True, help="How updates are encoded.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0, 2**32 - 1))
@data_option
@answers
def simulate(dataset: str, model: str, task: str | None, **choices: Any) -> Result:
    """Run many virtual members in one process, from the node's own functions.

    \b
    Example: fl-node simulate --dataset mnist --split dirichlet:0.5 --members 6 --sharing learned \\
                 --objective common --attack sign_flip --attackers 2 --rounds 20 --seed 7 --json
    """
    settings = SimulationSettings(task=task or f"{dataset}-{model}", **choices)
    torch.set_num_threads(1)  # small models: more threads only wait for each other
    started = time.perf_counter()
    rounds = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("simulating", total=settings.rounds)
        for finished in run_simulation(settings):
            rounds.append(finished)
            progress.advance(bar)
    fields = {
        "rounds": [round_json(finished) for finished in rounds],
        **summary(rounds[-1]),
        "bytes_per_member_round": shared_bytes(settings, rounds[-1]),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result(fields, rounds_table(rounds))


def shared_bytes(settings: SimulationSettings, finished: SimulatedRound) -> int:
    """Payload bytes that a member receives in a round, and on average sends."""
    others = settings.members - 1
    asked = 0 if settings.sharing == "none" else min(settings.cohort or others, others)
    return finished.payload_bytes * asked


def summary(finished: SimulatedRound) -> dict[str, float | None]:
    """Means over the honest members: accuracy on the common test set and on their own distribution, trust lost."""
    common = [metrics["accuracy"] for metrics in finished.metrics if "accuracy" in metrics]
    own = [metrics["own_accuracy"] for metrics in finished.metrics if "own_accuracy" in metrics]
    return {
        "common_accuracy": statistics.fmean(common) if common else None,
        "own_accuracy": statistics.fmean(own) if own else None,
        "std_over_members": statistics.pstdev(common) if common else None,
        "attacker_weight": finished.attacker_weight,
    }


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
    for column in ("round", "loss", "accuracy (%)", "own (%)", "std over members", "weight on attackers (%)"):
        table.add_column(column, justify="right")
    for finished in rounds:
        loss = statistics.fmean(metrics["loss"] for metrics in finished.metrics)
        seen = summary(finished)
        cells = [
            percent(seen[name]) for name in ("common_accuracy", "own_accuracy", "std_over_members", "attacker_weight")
        ]
        table.add_row(str(finished.round), f"{loss:.4f}", *cells)
    return table
