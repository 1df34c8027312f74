"""How long members that start at different times need to find each other: `python scripts/bench/cold_starts.py`.

Starts NODES nodes in random order with random delays, by each way of finding peers, REPEAT times, and measures from
the last start until everybody is connected to everybody. One process, loopback. With --json the last line is
{"rows": [{"way", "starts", "split", "p50_s", "p95_s", "worst_s", "p95_cpu_s", "load"}]}; `split` counts networks that
did not come together within PATIENCE, `p95_cpu_s` is what all nodes together worked meanwhile, `load` is the machine's
in the last five minutes, in processes per core.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from node.messages import Announcement
from node.network.identity import Identity, identity_from_seed
from node.network.network import Network
from node.network.service import NetworkSettings, open_network
from node.network.tracker import run_tracker

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LONGEST_DELAY = 0.5  # seconds between two starts

Start = Callable[[int], AsyncIterator[Network]]


class Nothing:
    """A payload source without payloads."""

    def open(self, digest: bytes) -> None:
        """Nothing is here."""


def nothing_said(since: int) -> Sequence[Announcement]:  # noqa: ARG001
    return ()


def identity_of(name: str) -> Identity:
    return identity_from_seed(hashlib.sha256(name.encode()).digest())


@asynccontextmanager
async def node(name: str, session_id: int, **ways: object) -> AsyncIterator[Network]:
    values = {"listen": (LOOPBACK,), "peers": (), "mdns": False, "session_id": session_id, "payload_limit": 1 << 20}
    settings = NetworkSettings(**values | ways)
    async with open_network(identity_of(name), settings, is_member, Nothing(), nothing_said) as network:
        yield network


def is_member(peer_id: str) -> bool:
    return peer_id != identity_of("meeting point").peer_id


async def one_start(
    way: str, nodes: int, session_id: int, chance: random.Random, patience: float
) -> tuple[float, float] | None:
    """Seconds, and seconds of CPU, from the last start until all are connected; None if the network stays split."""
    async with AsyncExitStack() as running:
        options: dict[str, object] = {"mdns": way == "mdns", "dht": way == "dht"}
        if way == "tracker":
            tracker = await running.enter_async_context(run_tracker(identity_of("meeting point"), [LOOPBACK]))
            at = f"{tracker.running.addresses[0]}/p2p/{identity_of('meeting point').peer_id}"
            options["trackers"] = (at,)
        if way == "dht":
            meeting = await running.enter_async_context(node("meeting point", 0, dht=True))
            options["peers"] = tuple(meeting.addresses())
        networks: list[Network] = []
        names = [f"node {number}" for number in range(nodes)]
        chance.shuffle(names)
        for name in names:
            if way == "peers" and networks:
                options["peers"] = (chance.choice(networks).addresses()[0],)
            network = await running.enter_async_context(node(name, session_id, **options))
            if way == "ledger":
                for other in networks:
                    network.hint(other.peer_id, other.addresses())
            networks.append(network)
            await trio.sleep(chance.uniform(0, LONGEST_DELAY))
        began, spent = time.perf_counter(), time.process_time()
        with trio.move_on_after(patience):
            while any(len(each.connected()) < nodes - 1 for each in networks):
                await trio.sleep(0.02)
            return time.perf_counter() - began, time.process_time() - spent
    return None


async def measure(way: str, options: argparse.Namespace) -> dict[str, object]:
    chance = random.Random(way)
    found: list[tuple[float, float] | None] = []
    deadline = trio.current_time() + 60 * options.minutes
    while len(found) < options.repeat and trio.current_time() < deadline:
        found.append(await one_start(way, options.nodes, len(found) + 1, chance, options.patience))
    seconds = sorted(each[0] for each in found if each is not None) or [options.patience]
    cpu = sorted(each[1] for each in found if each is not None) or [0.0]
    return {
        "way": way,
        "starts": len(found),
        "split": found.count(None),
        "p50_s": round(seconds[len(seconds) // 2], 2),
        "p95_s": round(seconds[len(seconds) * 95 // 100], 2),
        "worst_s": round(seconds[-1], 2),
        "p95_cpu_s": round(cpu[len(cpu) * 95 // 100], 2),
        "load": round(os.getloadavg()[1] / (os.cpu_count() or 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = ["peers", "mdns", "tracker", "dht", "ledger"]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=60, help="per way; fewer starts if that is too short")
    parser.add_argument("--patience", type=float, default=60, help="seconds until a network counts as split")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = []
    for way in options.ways:
        rows.append(trio.run(measure, way, options))
        line = "{way:8} {starts} starts, {split} split, p50 {p50_s:.2f} s, p95 {p95_s:.2f} s, worst {worst_s:.2f} s"
        line += ", p95 of CPU {p95_cpu_s:.2f} s, load {load}"
        print(line.format(**rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
