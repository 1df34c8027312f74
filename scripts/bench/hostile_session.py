"""A session with hostile clients beside the same without: `python scripts/bench/hostile_session.py`, in the repository.

Runs NODES real nodes on this machine through ROUNDS rounds of TASK on a real chain, twice: undisturbed, and while
HOSTILE clients (tests/network/hostile_client.py) play garbage, silent connections, half-open streams, oversized frames,
requests of strangers and floods on all nodes. With --json the last line is {"rows": [{"hostile", "finished", "faults",
"mean_accuracy", "worst_accuracy", "seconds", "attacks", "bytes_of_strangers"}], "difference"}: accuracies in percent.
With --halves calm or --halves hostile only that half runs, on a machine where both take too long for one sitting;
there is one row then, and no difference.
Exit status 1 if the attacked session did not finish, or the means are more than TOLERANCE points apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from node.demo import DemoSettings, run_demo

ROOT = Path(__file__).parents[2]


class Attack:
    """The hostile clients; they come as soon as every node listens."""

    def __init__(self, clients: int, nodes: int) -> None:
        self.clients, self.nodes = clients, nodes
        self.processes: list[subprocess.Popen[str]] = []

    def watch(self, statuses: list[dict[str, Any]]) -> None:
        """Starts the clients once everybody listens."""
        addresses = [status["addresses"][0] for status in statuses if status.get("addresses")]
        if self.processes or len(addresses) < self.nodes:
            return
        for seed in range(self.clients):
            command = [sys.executable, "-W", "ignore", "-m", "tests.network.hostile_client", str(seed), *addresses]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
            )

    def end(self) -> dict[str, int]:
        """Ends the clients; how often each attack was played."""
        played: Counter[str] = Counter()
        for process in self.processes:
            process.terminate()
            out, _ = process.communicate(timeout=60)
            played.update(json.loads(out.strip().splitlines()[-1]))
        return dict(played)


def measure(options: argparse.Namespace, clients: int) -> dict[str, Any]:
    attack = Attack(clients, options.nodes)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        settings = DemoSettings(
            out, options.task, options.nodes, options.rounds, snapshot_every=options.rounds, timeout_s=options.timeout
        )
        try:
            finished = run_demo(settings, attack.watch)
        finally:
            played = attack.end()
        strangers = [status["strangers"]["bytes_in"] for status in map(read, out.glob("*/status.json"))]
    accuracies = [100 * (member["test_accuracy"] or 0) for member in finished.report["members"]]
    return {
        "hostile": clients,
        "finished": sum(member["rounds"] == options.rounds for member in finished.report["members"]),
        "faults": list(finished.faults),
        "mean_accuracy": round(sum(accuracies) / len(accuracies), 3),
        "worst_accuracy": round(min(accuracies), 3),
        "seconds": finished.report["seconds"],
        "attacks": played,
        "bytes_of_strangers": sum(strangers),
    }


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--hostile", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", default="mnist-softmax")
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--tolerance", type=float, default=0.5, help="percentage points")
    parser.add_argument("--halves", choices=("both", "calm", "hostile"), default="both", help="which to run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    halves = {"both": (0, options.hostile), "calm": (0,), "hostile": (options.hostile,)}
    for clients in halves[options.halves]:
        rows.append(measure(options, clients))
        print(
            "{hostile} hostile: {finished} nodes finished in {seconds:.0f} s, accuracy {mean_accuracy:.2f} %, worst "
            "{worst_accuracy:.2f} %, attacks {attacks}, faults {faults}".format(**rows[-1]),
            flush=True,
        )
    difference = round(rows[1]["mean_accuracy"] - rows[0]["mean_accuracy"], 3) if len(rows) == 2 else None
    if options.json:
        print(json.dumps({"rows": rows, "difference": difference}))
    whole = all(row["finished"] == options.nodes for row in rows)
    sys.exit(0 if whole and (difference is None or abs(difference) <= options.tolerance) else 1)


if __name__ == "__main__":
    main()
