"""`fl-node demo`: the whole of it on this machine, watched live."""

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from node.cli.options import Seconds, data_option
from node.cli.result import Result, answers, note
from node.dashboard.tables import live_table, matrix_table, percent, size
from node.demo import DemoSettings, Finished, run_demo
from node.learning.splits import SPLITS
from node.messages import WEIGHT_SUM


@click.command()
@click.option(
    "--out", default="runs/demo", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Results."
)
@click.option("--task", default="mnist-softmax", show_default=True, help="A built-in task or FILE.py:NAME.")
@click.option("--members", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--split", default="iid", show_default=True, help=f"{SPLITS}.")
@click.option("--objective", default="common", show_default=True, type=click.Choice(["common", "personal"]))
@click.option("--snapshot-every", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option(
    "--timeout", "timeout_s", default=600.0, show_default=True, type=Seconds(), help="Seconds until the demo gives up."
)
@click.option("--keep", "keep_chain", is_flag=True, help="Leave the chain running at the end, until Ctrl-C.")
@data_option
@answers
def demo(keep_chain: bool, **choices: Any) -> Result:
    """Run real nodes on this machine: a chain, a session, a process per member, real MNIST.

    \b
    Example: fl-node demo
             fl-node demo --members 6 --split dirichlet:0.5 --out runs/skewed
    """
    settings = DemoSettings(**choices, keep=keep_running if keep_chain else None)
    console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=120)
    title = f"{settings.members} nodes, {settings.rounds} rounds of {settings.task}"
    with Live(console=console, refresh_per_second=4, transient=False) as live:

        def watch(statuses: Sequence[Mapping[str, Any]]) -> None:
            live.update(live_table(statuses, title))

        finished = run_demo(settings, watch)
    return Result(finished.report, accuracy_table(finished), 1 if finished.faults else 0, closing(settings, finished))


def keep_running(url: str) -> None:
    """Returns at Ctrl-C."""
    note(f"the chain runs on at {url}: try `fl-node history --session …/session.toml`; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def accuracy_table(finished: Finished) -> Table:
    """Accuracy and traffic per member."""
    table = Table(title="members", title_justify="left", header_style="bold")
    for column in ("member", "test accuracy (%)", "bytes in", "bytes out", "peer id", "account"):
        table.add_column(column, justify="right" if column not in ("peer id", "account") else "left", no_wrap=True)
    for member in finished.report["members"]:
        cells = (str(member["member"]), percent(member["test_accuracy"]))
        traffic = (size(member["bytes_in"]), size(member["bytes_out"]))
        table.add_row(*cells, *traffic, f"…{member['peer_id'][-8:]}", str(member["account"]))
    return table


def audit_line(audit: Mapping[str, Any]) -> str:
    """What the audit found, in a line."""
    steps = f"{audit['steps_replayed']} of {audit['steps_total']} mixing steps replayed bit for bit from IPFS"
    return f"clean: {steps}, {audit['records']} records in their hash chains" if audit["clean"] else "FAULTS"


def closing(settings: DemoSettings, finished: Finished) -> tuple[Any, ...]:
    """Trust, records, snapshots, and what to try next."""
    ledger = finished.report["ledger"]
    last = max((row["round"] for row in ledger["trust_rows"]), default=0)
    rows = {
        row["member"]: {peer: weight / WEIGHT_SUM for peer, weight in zip(row["peers"], row["weights"], strict=True)}
        for row in ledger["trust_rows"]
        if row["round"] == last
    }
    members = [member["member"] for member in finished.report["members"]]
    cids = "\n".join(
        f"  round {snapshot['round']:>3}, member {snapshot['member']}: {snapshot['cid']}"
        for snapshot in finished.report["snapshots"]
        if snapshot["round"] == last
    )
    text = (
        f"records   {ledger['records']} of {settings.members * settings.rounds} on the chain, "
        f"{ledger['gas_total']} gas, contract {ledger['address']}\n"
        f"audit     {audit_line(finished.report['audit'])}\n"
        f"snapshots of the last round (IPFS, pinned by their members)\n{cids}\n"
        f"files     {settings.out}/report.json, session.toml, accuracy.png, trust.png\n\n"
        "try next  fl-node demo --members 6 --split dirichlet:0.5 --out runs/skewed\n"
        "          fl-node simulate --help\n"
        "          the walk by hand in README.md: the same with your own machines, model and data"
    )
    faults = tuple(f"[red]fault: {fault}[/red]" for fault in finished.faults)
    return (matrix_table(rows, members), text, *faults)
