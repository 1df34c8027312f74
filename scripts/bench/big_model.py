"""What a big model costs in memory: `python scripts/bench/big_model.py [--json] [--megabytes N] [--rounds N] …`.

A chain, a coordinator and 2 workers, each a process of its own (`fl-node start`), a model of linear layers of N MB, one
local step a round, a snapshot each round. The peak is the kernel's (VmHWM: the most that ever lay in memory, pages of
files included). The same session with a model of a few KB says what a node takes without a model.

With --json the last line has, for each side, `peak_mb`, `baseline_mb`, `ratio` = (peak − baseline) / size of the model,
and `raw_ratio` = peak / size. The bar: below 3 on each side. `--momentum` is the workers' own, `--bar` is checked: exit
code 1 at it or above.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio
from balancing import start

from ledger import Devnet, DevnetOptions
from node.agreement import create_session
from node.demo import DemoNode, end_all, make_home, wait_for_address
from node.wishes import CoordinationWishes, Wishes

WORKERS = 2
WIDTH = 2048
MEGABYTE = 1_000_000
PATIENCE_S = 1500.0
TASK = """
import torch
from torch import nn
from node.learning.task import Examples, LocalSplit, Task


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear({width}, {width}) for _ in range({depth})])

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x)) / {depth}
        return x


def data(share):
    chance = torch.Generator().manual_seed(share.index)
    inputs = torch.randn(16, {width}, generator=chance)
    examples = Examples(inputs, inputs.roll(1, dims=1))
    return LocalSplit(examples, examples, examples)


task = Task("deep", Deep, data, nn.functional.mse_loss, batch_size=8, local_steps=1, momentum={momentum})
"""


@dataclass(frozen=True)
class Case:
    """One session."""

    width: int
    depth: int
    rounds: int
    rule: str
    momentum: float
    codec: str
    update: str


def run_case(case: Case, place: Path, chain: Devnet) -> dict[str, float]:
    """Peak of memory by side, MB, and the model's size."""
    place.mkdir()
    task = place / "deep.py"
    task.write_text(TASK.format(width=case.width, depth=case.depth, momentum=case.momentum))
    passphrase = secrets.token_urlsafe(8)
    nodes = [make_home(place / f"node{i}", f"node{i}", passphrase) for i in range(WORKERS + 1)]
    wishes = Wishes(
        task=f"{task}:task",
        rounds=case.rounds,
        rpc=chain.url,
        members=WORKERS,
        quorum=WORKERS,
        seed=7,
        codec=case.codec,
        snapshot_every=1,
        round_deadline_s=600.0,
        topology="coordinated",
        update=case.update,
        coordination=CoordinationWishes(rule=case.rule),
    )
    content, opened = trio.run(create_session, nodes[0].home, passphrase, wishes)
    session = place / "session.toml"
    session.write_bytes(content)
    size = opened.session.limits.payload_bytes
    with ExitStack() as stack:
        stack.callback(end_all, nodes)
        common = ["--task", f"{task}:task", "--quorum-timeout", "600"]
        start(nodes[0], session, passphrase, 0.0, common)
        address = wait_for_address(nodes[0], 300.0)
        for node in nodes[1:]:
            start(node, session, passphrase, 0.0, [*common, "--peers", address])
        peaks = watch(nodes)
    rounds = nodes[0].status().get("finished_rounds", [])
    if len(rounds) != case.rounds or not all(each["snapshot"] for each in rounds):
        raise SystemExit(f"{len(rounds)} rounds: {(nodes[0].home.path / 'node.log').read_text()[-2000:]}")
    return {"size": size / MEGABYTE, "coordinator": peaks[0], "workers": max(peaks[1:])}


def watch(nodes: list[DemoNode]) -> list[float]:
    """The peak of each process, MB, until all have ended."""
    peaks, deadline = [0.0] * len(nodes), time.monotonic() + PATIENCE_S
    while any(node.process is not None and node.process.poll() is None for node in nodes):
        if time.monotonic() > deadline:
            raise SystemExit(f"not finished within {PATIENCE_S:g} s: {nodes[0].status().get('state')}")
        for index, node in enumerate(nodes):
            if node.process is not None and node.process.poll():
                raise SystemExit(f"{node.name} ended: {(node.home.path / 'node.log').read_text()[-2000:]}")
            peaks[index] = max(peaks[index], peak_of(node))
        time.sleep(0.05)
    return peaks


def peak_of(node: DemoNode) -> float:
    """The most that a process ever had in memory, MB; 0 once it has ended."""
    assert node.process is not None
    try:
        lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) * 1024 / MEGABYTE for line in lines if line.startswith("VmHWM:")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--megabytes", type=float, default=500.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rule", default="fedavg")
    parser.add_argument("--momentum", type=float, default=0.0, help="of the workers' training")
    parser.add_argument("--codec", default="float32")
    parser.add_argument("--bar", type=float, default=3.0, help="exit with 1 at this ratio or above")
    options = parser.parse_args()
    update = "gradients" if options.rule in ("sgd", "adam") else "parameters"
    depth = max(1, round(options.megabytes * MEGABYTE / (4 * WIDTH * (WIDTH + 1))))
    kind = (options.rounds, options.rule, options.momentum, options.codec, update)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as place, Devnet(DevnetOptions(block_time=1.0, free_gas=True)) as chain:
        small = run_case(Case(16, 2, *kind), Path(place) / "small", chain)
        print(json.dumps(small), file=sys.stderr)
        large = run_case(Case(WIDTH, depth, *kind), Path(place) / "large", chain)
    model = depth * 4 * WIDTH * (WIDTH + 1) / MEGABYTE
    report: dict[str, object] = {"model_mb": round(model, 1), "rounds": options.rounds, "rule": options.rule}
    report |= {"update": update, "codec": options.codec, "momentum": options.momentum}
    ratios = []
    for side in ("coordinator", "workers"):
        ratios.append((large[side] - small[side]) / model)
        report[side] = {
            "peak_mb": round(large[side], 1),
            "baseline_mb": round(small[side], 1),
            "ratio": round(ratios[-1], 2),
            "raw_ratio": round(large[side] / model, 2),
        }
    print(json.dumps(report) if options.json else json.dumps(report, indent=1))
    sys.exit(int(max(ratios) >= options.bar))


if __name__ == "__main__":
    main()
