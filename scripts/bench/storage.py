"""Speed of the embedded snapshot store beside a plain file of the same bytes, on the same disk in the same run.

    python scripts/bench/storage.py [--mib 64] [--runs 5] [--json]

Plain: write, fdatasync, SHA-256; read, SHA-256. Medians of the runs, in MB/s (10^6 bytes).
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from node.storage import EmbeddedSnapshots, open_snapshots


def write_plain(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        os.fdatasync(file.fileno())
    hashlib.sha256(content).digest()


def read_plain(path: Path) -> None:
    hashlib.sha256(path.read_bytes()).digest()


async def megabytes_per_second(size: int, work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return size / 1e6 / (time.perf_counter() - began)


async def one_run(place: Path, snapshots: EmbeddedSnapshots, size: int) -> dict[str, float]:
    content = os.urandom(size)
    plain = place / "plain"
    cids: list[str] = []

    async def add() -> None:
        cids.append(await snapshots.add({"update": content}))

    speeds = {
        "plain_write": await megabytes_per_second(size, lambda: trio.to_thread.run_sync(write_plain, plain, content)),
        "add": await megabytes_per_second(size, add),
        "plain_read": await megabytes_per_second(size, lambda: trio.to_thread.run_sync(read_plain, plain)),
        "read": await megabytes_per_second(size, lambda: snapshots.read(cids[0], "update", size)),
        "fetch_to": await megabytes_per_second(
            size, lambda: snapshots.fetch_to(cids[0], "update", place / "fetched", size)
        ),
        "pin_again": await megabytes_per_second(size, lambda: snapshots.pin(cids[0])),
    }
    await snapshots.unpin(cids[0])
    await snapshots.gc()
    return speeds


async def measure(size: int, runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        async with open_snapshots(Path(place)) as snapshots:
            assert isinstance(snapshots, EmbeddedSnapshots)
            results = [await one_run(Path(place), snapshots, size) for _ in range(runs)]
    return {name: round(statistics.median(run[name] for run in results), 1) for name in results[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    speeds = trio.run(measure, arguments.mib << 20, arguments.runs)
    result = {"mib": arguments.mib, "runs": arguments.runs, "megabytes_per_second": speeds}
    if arguments.json:
        print(json.dumps(result))
        return
    for name, speed in speeds.items():
        print(f"{name:12} {speed:8.1f} MB/s")


if __name__ == "__main__":
    main()
