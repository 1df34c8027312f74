"""Whether nodes stay as they are: `python scripts/bench/soak.py [--nodes 12] [--rounds 300] [--json]`, from the root.

Runs real nodes on this machine through many rounds of a small model on a real chain, and reads each process's memory
(resident set) and open descriptors as it goes. After a warm-up (the first third) the mean over the nodes is cut into
20 stretches; the slope of a line through them, with its 95 % confidence interval, is what a round costs that never
comes back. A run that --timeout ends is judged by the rounds that it reached. With --json the last line is {"nodes",
"rounds" (reached), "seconds", "faults", "rows": [{"quantity", "start", "end",
"slope_per_round", "interval", "flat"}]}; `flat` is whether zero is inside the interval, or growth over all rounds is
under 5 % of the start. OUT/soak.png shows each node's curve, OUT/samples.csv has the readings. Exit status 1 if not
everything is flat.
"""

import argparse
import csv
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from node.demo import DemoSettings, names, run_demo
from node.home import Home, running_pid

QUANTITIES = {"memory_mb": "resident memory (MB)", "descriptors": "open descriptors"}
STRETCHES = 20
T_95 = 2.101  # Student's t, 18 degrees of freedom
TOLERATED = 0.05  # of the start, over all rounds
EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading of one node."""

    node: str
    seconds: float
    round: int
    memory_mb: float
    descriptors: int


@dataclass
class Readings:
    """Reads the nodes' processes while they run."""

    out: Path
    nodes: Sequence[str]
    samples: list[Sample] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    last: float = -math.inf

    def watch(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """A reading of every node, at most one every EVERY_S seconds."""
        now = time.monotonic() - self.started
        if now - self.last < EVERY_S:
            return
        self.last = now
        for name, status in zip(self.nodes, statuses, strict=True):
            pid = running_pid(Home(self.out / name))
            if pid and status.get("finished_rounds"):
                self._read(name, pid, now, status["finished_rounds"][-1]["round"])

    def _read(self, name: str, pid: int, now: float, round: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it ended just now
            return
        kilobytes = int(status.split("VmRSS:")[1].split()[0])
        self.samples.append(Sample(name, now, round, kilobytes / 1024, descriptors))


def slope(samples: Sequence[Sample], quantity: str, rounds: int) -> dict[str, Any]:
    """The slope of a quantity per round after the warm-up, and its 95 % confidence interval."""
    if rounds < 3 * STRETCHES:
        sys.exit(f"only {rounds} rounds were reached, the slope needs {3 * STRETCHES}: give it a longer --timeout")
    kept = [one for one in samples if one.round > rounds / 3]
    width = (rounds - rounds / 3) / STRETCHES
    stretches: dict[int, list[float]] = defaultdict(list)
    for one in kept:
        stretches[min(STRETCHES - 1, int((one.round - rounds / 3) / width))].append(getattr(one, quantity))
    x = np.array([rounds / 3 + width * (position + 0.5) for position in sorted(stretches)])
    y = np.array([np.mean(stretches[position]) for position in sorted(stretches)])
    if len(x) < STRETCHES // 2:
        sys.exit(f"only {len(x)} of {STRETCHES} stretches have readings: run more rounds")
    centred = x - x.mean()
    found = float((centred * y).sum() / (centred**2).sum())
    rest = y - y.mean() - found * centred
    error = math.sqrt(float((rest**2).sum()) / (len(x) - 2) / float((centred**2).sum()))
    low, high = found - T_95 * error, found + T_95 * error
    flat = low <= 0.0 or found * (rounds - rounds / 3) <= TOLERATED * float(y[0])
    return {
        "quantity": quantity,
        "start": round(float(y[0]), 2),
        "end": round(float(y[-1]), 2),
        "slope_per_round": round(found, 5),
        "interval": [round(low, 5), round(high, 5)],
        "flat": flat,
    }


def draw(samples: Sequence[Sample], path: Path) -> None:
    """A curve a node for each quantity."""
    figure = Figure(figsize=(12, 4.2), layout="constrained", dpi=84)
    for axes, (quantity, label) in zip(figure.subplots(1, len(QUANTITIES)), QUANTITIES.items(), strict=True):
        for name in sorted({one.node for one in samples}):
            own = [one for one in samples if one.node == name]
            axes.plot([one.round for one in own], [getattr(one, quantity) for one in own], linewidth=1, label=name)
        axes.set(xlabel="round", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    FigureCanvasAgg(figure).print_png(path)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        readings = Readings(out, names(options.nodes))
        settings = DemoSettings(
            out,
            options.task,
            options.nodes,
            options.rounds,
            snapshot_every=options.snapshot_every,
            timeout_s=options.timeout,
        )
        finished = run_demo(settings, readings.watch)
    with (options.out / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["node", "seconds", "round", "memory_mb", "descriptors"])
        for one in readings.samples:
            writer.writerow([one.node, round(one.seconds, 1), one.round, round(one.memory_mb, 2), one.descriptors])
    draw(readings.samples, options.out / "soak.png")
    reached = max((one.round for one in readings.samples), default=0)
    return {
        "nodes": options.nodes,
        "rounds": reached,
        "seconds": round(time.monotonic() - readings.started, 1),
        "faults": list(finished.faults),
        "rows": [slope(readings.samples, quantity, reached) for quantity in QUANTITIES],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--task", default="mnist-softmax")
    parser.add_argument("--snapshot-every", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=6 * 3600.0, help="seconds for the whole run")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rounds < 3 * STRETCHES:
        sys.exit(f"--rounds must be at least {3 * STRETCHES}, not {options.rounds}: the slope needs them")
    result = measure(options)
    for row in result["rows"]:
        low, high = row["interval"]
        print(
            f"{row['quantity']}: {row['start']} to {row['end']}, slope {row['slope_per_round']} a round "
            f"[{low}, {high}]: {'flat' if row['flat'] else 'GROWS'}"
        )
    if options.json:
        print(json.dumps(result))
    sys.exit(0 if all(row["flat"] for row in result["rows"]) and not result["faults"] else 1)


if __name__ == "__main__":
    main()
