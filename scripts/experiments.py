"""Runs cells of issue 3's table through the simulation and prints one Markdown row each. Resumable: --out keeps rows.

scripts/experiments.py --data-dir DIR --cells attacks --seeds 7
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from node.simulation.attacks import ATTACKS
from node.simulation.run import simulate
from node.simulation.settings import SimulationSettings

SPLITS = ("iid", "unbalanced", "dirichlet:0.5", "dirichlet:0.1", "shards:2")


def cells(kind: str, task: str, rounds: int) -> Iterator[SimulationSettings]:
    start = SimulationSettings(task=task, members=6, rounds=rounds)
    if kind in ("splits", "personal"):
        objective = "personal" if kind == "personal" else "common"
        for split in SPLITS:
            for sharing in ("none", "fixed", "learned"):
                yield replace(start, split=split, sharing=sharing, objective=objective)
    if kind == "attacks":
        for split in ("dirichlet:0.5", "iid"):
            attacked = replace(start, split=split, attackers=2)
            yield replace(attacked, attack="label_flip", sharing="fixed", attackers_absent=True)
            for attack in ATTACKS:
                yield replace(attacked, attack=attack, sharing="learned")


def measure(settings: SimulationSettings) -> dict[str, float]:
    rounds = list(simulate(settings))
    last = rounds[-1]
    late = rounds[10:] or rounds[-1:]
    return {
        "common": 100 * statistics.fmean(metrics["accuracy"] for metrics in last.metrics),
        "own": 100 * statistics.fmean(metrics["own_accuracy"] for metrics in last.metrics),
        "weight": 100 * statistics.fmean(finished.attacker_weight for finished in late),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", choices=["splits", "personal", "attacks"], default="attacks")
    parser.add_argument("--task", default="mnist-softmax")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.loads(line)["cell"] for line in lines}
    for settings in cells(options.cells, options.task, options.rounds):
        for seed in options.seeds:
            run = replace(settings, seed=seed, data_dir=options.data_dir)
            cell = str(replace(run, data_dir=None))
            if cell in done:
                continue
            row = measure(run)
            with options.out.open("a") as stream:
                stream.write(json.dumps({"cell": cell, **row}) + "\n")
            reference = "absent" if run.attackers_absent else run.attack or "-"
            name = f"{run.task} | {run.split} | {run.objective} | {run.sharing} | {reference} | {seed}"
            print(f"| {name} | {row['common']:.2f} | {row['own']:.2f} | {row['weight']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
