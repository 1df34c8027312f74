"""A relay, alice behind a NAT, or bob behind another: `python -m tests.network.circuit_child ROLE [ADDRESS RELAY]`."""

import logging
import random
import sys

import trio

from node.network.host import run_host
from node.network.network import Network
from node.network.relaying import Relay
from node.network.service import open_network
from tests.network.members import Shelf, identity, settings

RELAY = identity("relay")
PAYLOAD = random.Random(1).randbytes(1_000_000)
MEMBERS = {identity(name).peer_id for name in ("alice", "bob")}


async def relay() -> None:
    async with run_host(RELAY, ["/ip4/0.0.0.0/tcp/4010"], lambda peer_id: True) as running:
        Relay(running.host)
        print("ready", flush=True)
        await trio.sleep_forever()


async def meet(name: str, address: str, relay_at: str) -> None:
    shelf = Shelf(identity("alice"))
    announcement = shelf.put(PAYLOAD, 1)
    at = f"/ip4/{relay_at}/tcp/4010/p2p/{RELAY.peer_id}"
    wanted = settings(listen=f"/ip4/{address}/tcp/4001", relays=(at,))
    own = shelf if name == "alice" else Shelf(identity(name))
    async with open_network(identity(name), wanted, MEMBERS.__contains__, own, own.since) as network:
        if name == "alice":
            print("ready", flush=True)
            await trio.sleep_forever()
        await fetch(network, announcement, f"{at}/p2p-circuit")


async def fetch(network: Network, announcement, through: str) -> None:
    alice = identity("alice").peer_id
    network.hint(alice, ["/ip4/10.77.1.2/tcp/4001", through])  # the first one cannot be reached from here
    fetched = await network.fetch(announcement, [alice], trio.current_time() + 60)
    assert fetched == PAYLOAD
    print(f"fetched {len(fetched)} bytes", flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(relay) if sys.argv[1] == "relay" else trio.run(meet, *sys.argv[1:])
