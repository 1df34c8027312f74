"""What load balancing gives: `python scripts/bench/balancing.py [--json] [--rounds N] [--step SECONDS]`.

Real nodes: a chain, a coordinator and 8 workers in processes of their own, MNIST softmax. A step of every worker takes
at least so long (`fl-node start --throttle`: it sleeps for what its work leaves), so that its speed is set, as long as
a step's work fits into STEP: six take STEP, one 4 and one 20 times as long. Three sessions: all fast; with the two slow
ones, balanced; with them and without balancing. In all three each round waits for everybody (quorum 8 of 8), and all
have as many rounds: they differ in nothing else. The first round, in which nobody's speed is known, counts.

With --json the last line has `round_time_ratio` (balanced / all fast; at most 1.3), `unbalanced_ratio` (unbalanced /
all fast; above 10), both of the mean time per round, and `accuracy_difference` (all fast − balanced, in points; at most
0.3). Each case's `seconds_per_step` says how slow each worker in fact was, `updates` how many came into each round.
Exits with 1 if a bar is missed, which `missed` names.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

from ledger import Devnet, DevnetOptions
from node.agreement import create_session
from node.demo import DemoNode, end_all, make_home, wait_for_address
from node.wishes import CoordinationWishes, Wishes

WORKERS = 8
SLOW = {7: 4, 8: 20}  # times slower
PATIENCE_S = 3600.0
MOST_RATIO, LEAST_UNBALANCED, MOST_POINTS = 1.3, 10.0, 0.3  # the bars


@dataclass(frozen=True)
class Case:
    """One session."""

    name: str
    slow: dict[int, int]
    balance: bool
    rounds: int


def run_case(case: Case, place: Path, chain: Devnet, step_s: float) -> dict[str, object]:
    """Seconds per round, as the coordinator saw them, and the final accuracy of its model."""
    place.mkdir()
    passphrase = secrets.token_urlsafe(8)
    nodes = [make_home(place / f"node{i}", f"node{i}", passphrase) for i in range(WORKERS + 1)]
    wishes = Wishes(
        task="mnist-softmax",
        rounds=case.rounds,
        rpc=chain.url,
        members=WORKERS,
        quorum=WORKERS,
        seed=7,
        snapshot_every=1000,
        round_deadline_s=600.0,
        topology="coordinated",
        coordination=CoordinationWishes(balance=case.balance),
    )
    content, _ = trio.run(create_session, nodes[0].home, passphrase, wishes)
    session = place / "session.toml"
    session.write_bytes(content)
    with ExitStack() as stack:
        stack.callback(end_all, nodes)
        start(nodes[0], session, passphrase, 0.0, ["--quorum-timeout", "300"])
        address = wait_for_address(nodes[0], 180.0)
        for index, node in enumerate(nodes[1:], 1):
            start(node, session, passphrase, step_s * case.slow.get(index, 1), ["--peers", address])
        status = wait_for_end(nodes, case)
    rounds = status["finished_rounds"]
    times = [entry["commit_s"] + entry["gather_s"] + entry["mix_s"] for entry in rounds]
    result = {
        "case": case.name,
        "rounds": len(rounds),
        "mean_round_s": round(sum(times) / len(times), 2),
        "round_s": [round(each, 2) for each in times],
        "accuracy": rounds[-1]["metrics"]["test_accuracy"],
        "updates": [sum(one["round"] == entry["round"] for one in entry["work"]) for entry in rounds],
        "steps": {one["member"]: one["steps"] for one in rounds[-1]["work"]},
        "seconds_per_step": {one["member"]: round(one["training_s"] / one["steps"], 4) for one in rounds[-1]["work"]},
    }
    print(json.dumps(result), file=sys.stderr)
    return result


def start(node: DemoNode, session: Path, passphrase: str, throttle_s: float, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "node", "-v", "start", "--home", str(node.home.path), "--session", str(session)]
    command += ["--threads", "1", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--throttle", str(throttle_s)]
    environment = {**os.environ, "FL_NODE_PASSPHRASE": passphrase, "OMP_NUM_THREADS": "1"}
    with (node.home.path / "node.log").open("wb") as log:
        node.process = subprocess.Popen(
            [*command, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )


def wait_for_end(nodes: list[DemoNode], case: Case) -> dict:
    deadline = time.monotonic() + PATIENCE_S
    while nodes[0].process is not None and nodes[0].process.poll() is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{case.name}: not finished within {PATIENCE_S:g} s: {nodes[0].status().get('state')}")
        time.sleep(0.5)
    status = nodes[0].status()
    if len(status.get("finished_rounds", [])) != case.rounds:
        raise SystemExit(f"{case.name}: {(nodes[0].home.path / 'node.log').read_text()[-1000:]}")
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--step", type=float, default=0.06, help="seconds that a step of a fast worker takes at least")
    options = parser.parse_args()
    cases = [
        Case("all fast", {}, True, options.rounds),
        Case("balanced", SLOW, True, options.rounds),
        Case("unbalanced", SLOW, False, options.rounds),
    ]
    with tempfile.TemporaryDirectory() as place, Devnet(DevnetOptions(block_time=1.0, free_gas=True)) as chain:
        results = [run_case(case, Path(place) / str(number), chain, options.step) for number, case in enumerate(cases)]
    fast, balanced, unbalanced = (float(str(result["mean_round_s"])) for result in results)
    reached = [float(str(result["accuracy"])) for result in results]
    ratios = balanced / fast, unbalanced / fast, 100 * (reached[0] - reached[1])
    report = {
        "workers": WORKERS,
        "slow": SLOW,
        "step_s": options.step,
        "cases": results,
        "round_time_ratio": round(ratios[0], 3),
        "unbalanced_ratio": round(ratios[1], 2),
        "accuracy_difference": round(ratios[2], 3),
        "missed": missed(*ratios),
    }
    print(json.dumps(report) if options.json else json.dumps(report, indent=1))
    sys.exit(bool(report["missed"]))


def missed(round_time_ratio: float, unbalanced_ratio: float, points: float) -> list[str]:
    """The bars that were not reached, by name."""
    held = {
        "round_time_ratio": round_time_ratio <= MOST_RATIO,
        "unbalanced_ratio": unbalanced_ratio > LEAST_UNBALANCED,
        "accuracy_difference": points <= MOST_POINTS,
    }
    return [name for name, is_held in held.items() if not is_held]


if __name__ == "__main__":
    main()
