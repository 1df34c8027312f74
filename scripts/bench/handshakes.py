"""What an unknown peer costs in CPU: `python scripts/bench/handshakes.py`, in the repository.

A node in a process of its own is visited by STRANGERS with an identity each, one after the other: a whole Noise
handshake, the muxer, goodbye. Then by as many that send garbage instead. With --json the last line is
{"strangers", "ms_per_handshake", "ms_per_garbage"}: CPU time of the node, milliseconds.
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from node.errors import PeerError  # noqa: E402
from node.network.addresses import host_and_port, parse_peer_address  # noqa: E402
from node.network.door import DoorRules  # noqa: E402
from node.network.host import HostLimits, dial, run_host  # noqa: E402
from node.network.service import open_network  # noqa: E402
from tests.network.members import LOOPBACK, Shelf, identity, settings  # noqa: E402


async def node() -> None:
    """Prints its address, then its CPU seconds for each line it is given."""
    own = identity("victim")
    shelf, door = Shelf(own), DoorRules(per_second=1e6, burst=1e6, total_per_second=1e6, total_burst=1e6)
    async with open_network(
        own, settings(host=HostLimits(door=door)), {own.peer_id}.__contains__, shelf, shelf.since
    ) as network:
        print(network.addresses()[0], flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(time.process_time(), flush=True)


async def visit(address: str, name: str) -> None:
    """A whole handshake of a new identity."""
    place = parse_peer_address(address)
    try:
        async with run_host(identity(name), [LOOPBACK], lambda _peer: True) as running:
            await dial(running.host, place.peer_id, place.address, 10)
    except PeerError:
        pass


async def throw(address: str) -> None:
    """Garbage where a handshake should begin."""
    place = parse_peer_address(address)
    async with await trio.open_tcp_stream(*host_and_port(place.address)) as stream:
        await stream.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(range(256)) * 4)
        await trio.sleep(0.005)


async def measure(strangers: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--node"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()

        def spent() -> float:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return float(process.stdout.readline())  # type: ignore[union-attr]

        await visit(address, "warm")
        readings = [spent()]
        for number in range(strangers):
            await visit(address, f"stranger {number}")
        readings.append(spent())
        for _ in range(strangers):
            await throw(address)
        await trio.sleep(1)
        readings.append(spent())
        process.stdin.close()
    handshakes, garbage = (1000 * (after - before) / strangers for before, after in pairwise(readings))
    return {"strangers": strangers, "ms_per_handshake": round(handshakes, 2), "ms_per_garbage": round(garbage, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strangers", type=int, default=200)
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.node:
        trio.run(node)
        return
    found = trio.run(measure, options.strangers)
    print(
        "{strangers} strangers: {ms_per_handshake} ms of CPU for a handshake, {ms_per_garbage} for garbage".format(
            **found
        )
    )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
