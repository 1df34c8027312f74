"""What the ledger costs a node, and how fast an audit is: 8 real nodes, 20 rounds, a snapshot in every round.

    .venv/bin/python scripts/bench/audit.py --json

Prints the share of round time that the ledger adds (a record is on disk before the update is revealed; the chain itself
is not waited for), the audit's rate, and the rate of only reading and hashing the same snapshots in the same process.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

import trio

from node.audit.run import AuditSettings, audit_session
from node.audit.snapshots import open_shelf
from node.demo import DemoSettings, run_demo
from node.home import Home, read_status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only one JSON object")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--task", default="mnist-softmax")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch) / "run", options)
    if options.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:>24}  {value}")


def measure(out, options):
    seen = {}

    def while_the_chain_lives(url):
        settings = AuditSettings(out / "session.toml", url)
        report = trio.run(audit_session, settings, lambda _line: None)
        seen.update(report.json())

    settings = DemoSettings(
        out, options.task, options.members, options.rounds, snapshot_every=1, keep=while_the_chain_lives
    )
    finished = run_demo(settings, lambda _statuses: None)
    baseline = trio.run(read_and_hash, out, finished.report["snapshots"])
    return {
        "clean": seen["clean"],
        "steps_total": seen["steps_total"],
        "steps_replayed": seen["steps_replayed"],
        "audit_steps_per_s": seen["steps_per_s"],
        "audit_mb_per_s": seen["mb_per_s"],
        "read_and_hash_mb_per_s": baseline,
        "ledger_share_of_round": ledger_share(out),
        "faults": list(finished.faults),
    }


def ledger_share(out):
    """Seconds in which rounds waited for the ledger's outbox, of all seconds in rounds, over all members."""
    waited = total = 0.0
    for home in sorted(path.parent for path in out.glob("*/status.json")):
        for entry in read_status(Home(home))["finished_rounds"]:
            waited += entry["commit_s"]
            total += entry["train_s"] + entry["commit_s"] + entry["gather_s"] + entry["mix_s"]
    return round(waited / total, 5)


async def read_and_hash(out, snapshots):
    """MB/s of reading and hashing both files of every snapshot."""
    async with open_shelf((), out, 1 << 30) as shelf:
        started, size = time.perf_counter(), 0
        for snapshot in snapshots:
            for name in ("update", "mixed.safetensors"):
                content = await shelf.read(snapshot["cid"], name)
                hashlib.sha256(content).digest()
                size += len(content)
        return round(size / 1e6 / (time.perf_counter() - started), 1)


if __name__ == "__main__":
    main()
