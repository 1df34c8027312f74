"""A node in a process of its own, to be attacked: `python -m tests.network.victim` prints its address, then answers
each line on standard input with its memory and what it has counted."""

import json
import logging
import os
import random
import sys

import trio

from node.network.connecting import ConnectionRules
from node.network.service import open_network
from node.network.serving import ServingTimes
from tests.network.members import Shelf, identity, settings

MEMBERS = {identity(name).peer_id for name in ("victim", "honest", "mallory", "minion 1", "minion 2")}
PAYLOAD = random.Random(1).randbytes(4 << 20)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tell(**content) -> None:
    print(json.dumps(content), flush=True)


class Said(logging.Handler):
    """Which causes the log named."""

    def __init__(self) -> None:
        super().__init__()
        self.causes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = getattr(record, "cause", None)
        if cause is not None:
            assert cause in record.getMessage()
            self.causes.append(cause)


async def main(said: Said) -> None:
    shelf = Shelf(identity("victim"))
    shelf.put(PAYLOAD, 1)
    rules = ConnectionRules(max_strangers=16, stranger_seconds=2)
    times = ServingTimes(idle=900, request=2, chunk=2)
    wanted = settings(connections=rules, serving_times=times, dht=True)
    async with open_network(shelf.owner, wanted, MEMBERS.__contains__, shelf, shelf.since) as network:
        tell(address=network.addresses()[0])
        while await trio.to_thread.run_sync(sys.stdin.readline):
            tell(
                resident=resident(),
                refused=network.standings.refused,
                scores=network.standings.scores(),
                linked=len(network._parts.connector.linked()),
                connected=sorted(network.connected()),
                logged=said.causes,
                tasks=trio.lowlevel.current_statistics().tasks_living,
            )


if __name__ == "__main__":
    said = Said()
    logging.basicConfig(level=logging.INFO, handlers=[said])
    trio.run(main, said)
