"""How fast a model gets from one process to another: `python scripts/bench/exchange.py [--json] [--sizes …]`.

Two processes on loopback. The server serialises the model once (safetensors), as a member does once a round; each
repetition asks for it, moves the bytes, checks their SHA-256 in the client and makes tensors of them there, with every
transport alike; medians, the transports taking turns. `tcp`, `tls`, `grpc-tls` and `zmq-curve` are the same work over
other transports; `p2pfl` and `hivemind` are what those libraries themselves do with the same tensors, where a Python
of their own has them (--p2pfl-python, --hivemind-python).

With --json the last line is {"rows": [{"transport", "bytes", "mb_per_s", "latency_ms", "cpu_s_per_gb"}]}.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transports.certificates import certificate
from transports.ends import SERVERS, be_client
from transports.models import make_model

SIZES = {"31kB": 31_000, "1MB": 10**6, "100MB": 10**8, "1GB": 10**9}
REPETITIONS = {"31kB": 400, "1MB": 100, "100MB": 9, "1GB": 3}
TURNS_UP_TO = 10**8  # bytes; larger models are not held by all transports at once
TICKS = os.sysconf("SC_CLK_TCK")
DRIVERS = Path(__file__).parent / "drivers"


def cpu_of(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Pair:
    """A server and a client process."""

    def __init__(self, transport: str, size: str, place: Path) -> None:
        self.transport, self.size = transport, size
        self.seconds: list[float] = []
        self.busy = 0.0
        self.server = start("--serve", transport, "--sizes", size, "--place", str(place))
        address = heard(self.server)
        self.client = start("--get", transport, "--address", address, "--place", str(place))
        assert heard(self.client) == "ready"
        self.transfer(1)
        self.seconds.clear()  # that one warmed up
        self.busy = -cpu_of(self.server.pid)

    def transfer(self, count: int) -> None:
        """Makes `count` transfers and notes how long they took."""
        assert self.client.stdin is not None
        self.client.stdin.write(f"{count}\n")
        self.client.stdin.flush()
        done = json.loads(heard(self.client))
        self.seconds += done["seconds"]
        self.busy += done["busy"]

    def close(self) -> dict[str, object]:
        """The row; ends both processes."""
        busy = self.busy + cpu_of(self.server.pid)
        for process in (self.client, self.server):
            process.kill()
            process.communicate()
        return row(self.transport, SIZES[self.size], self.seconds, busy)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def measure(transports: list[str], size: str, place: Path) -> list[dict[str, object]]:
    """Rows; the transports take turns, so that whatever else the machine does falls on all alike."""
    if SIZES[size] > TURNS_UP_TO:
        return [each for transport in transports for each in measure_in_turns([transport], size, place)]
    return measure_in_turns(transports, size, place)


def measure_in_turns(transports: list[str], size: str, place: Path) -> list[dict[str, object]]:
    pairs = [Pair(transport, size, place) for transport in transports]
    turn = max(1, REPETITIONS[size] // 20)
    for _ in range(REPETITIONS[size] // turn):
        for pair in pairs:
            pair.transfer(turn)
    return [pair.close() for pair in pairs]


def row(transport: str, size: int, seconds: list[float], busy: float) -> dict[str, object]:
    median = statistics.median(seconds)
    return {
        "transport": transport,
        "bytes": size,
        "mb_per_s": round(size / 1e6 / median, 1),
        "latency_ms": round(median * 1e3, 3),
        "cpu_s_per_gb": round(busy / len(seconds) / size * 1e9, 2),
    }


def measure_driver(name: str, python: str, size: str) -> dict[str, object] | None:
    """What drivers/drive_<name>.py measures in the Python that has the library; None if it cannot."""
    command = [python, str(DRIVERS / f"drive_{name}.py"), str(SIZES[size]), str(max(2, REPETITIONS[size] // 4))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        print(f"{name} does not work with {python}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return row(name, SIZES[size], answer["seconds"], answer["cpu_seconds"])


def show(measured: dict[str, object]) -> None:
    line = (
        "{transport:10} {bytes:>13,} bytes {mb_per_s:>9.1f} MB/s {latency_ms:>10.2f} ms {cpu_s_per_gb:>7.2f} CPU s/GB"
    )
    print(line.format(**measured), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--transports", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--p2pfl-python", help="a Python that has p2pfl")
    parser.add_argument("--hivemind-python", help="a Python that has hivemind")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--get", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.serve:
        SERVERS[options.serve](make_model(SIZES[options.sizes[0]]), options.place)
        return
    if options.get:
        be_client(options.get, options.address, options.place)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        certificate(place)
        for size in options.sizes:
            found: list[dict[str, object] | None] = [*measure(options.transports, size, place)]
            for library in ("p2pfl", "hivemind"):
                python = getattr(options, f"{library}_python")
                found.append(measure_driver(library, python, size) if python else None)
            for each in filter(None, found):
                rows.append(each)
                show(each)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
