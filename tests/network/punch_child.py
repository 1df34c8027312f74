"""The relay, alice behind one NAT, bob behind another: `python -m tests.network.punch_child relay|alice|bob`.

Bob says what happens: whether alice's public address can be dialed, how they are linked, what he fetched. The relay
answers each line with the bytes that it carried.
"""

import logging
import random
import sys

import trio

from node.network.host import run_host
from node.network.meeting import PunchRules
from node.network.network import Network
from node.network.relaying import Relay
from node.network.service import open_network
from tests.network.members import Shelf, identity, settings, until
from tests.network.nat import FIRST_PORT

RELAY, ALICE = identity("relay"), identity("alice")
AT = f"/ip4/198.51.100.3/tcp/4010/p2p/{RELAY.peer_id}"
LISTEN = {"alice": "/ip4/10.1.0.2/tcp/4001", "bob": "/ip4/10.2.0.2/tcp/4001"}
PAYLOAD = random.Random(1).randbytes(1_000_000)
MEMBERS = {identity(name).peer_id for name in LISTEN}
RULES = PunchRules(tries=2, dial=3.0, pause=0.5, grace=1.0)


def say(text: str) -> None:
    print(text, flush=True)


async def relay() -> None:
    async with run_host(RELAY, ["/ip4/0.0.0.0/tcp/4010"], lambda peer_id: True) as running:
        serving = Relay(running.host)
        say("ready")
        while await trio.to_thread.run_sync(sys.stdin.readline):
            say(str(serving.carried))


async def member(name: str) -> None:
    shelf = Shelf(ALICE)
    announcement = shelf.put(PAYLOAD, 1)
    own = shelf if name == "alice" else Shelf(identity(name))
    wanted = settings(listen=LISTEN[name], relays=(AT,), punching=RULES)
    async with open_network(identity(name), wanted, MEMBERS.__contains__, own, own.since) as network:
        if name == "alice":
            await until(lambda: len(network._upgrader.own_places()) > 1, 60)
            say(f"ready at {network._upgrader.own_places()[0]}")
            await trio.sleep_forever()
        await meet(network)
        fetched = await network.fetch(announcement, [ALICE.peer_id], trio.current_time() + 60)
        say(f"fetched {len(fetched)} right {fetched == PAYLOAD}")
        await trio.sleep_forever()


async def meet(network: Network) -> None:
    public = ("198.51.100.1", FIRST_PORT)  # alice's first mapping, that of her connection to the relay
    dialed = False
    with trio.move_on_after(3):
        await trio.open_tcp_stream(*public)
        dialed = True
    say(f"dialed {dialed}")
    network.hint(ALICE.peer_id, [f"{AT}/p2p-circuit"])
    await until(lambda: ALICE.peer_id in network.connected(), 60)
    say(f"first {network.link(ALICE.peer_id)}")
    outcomes = network._upgrader.puncher.outcomes
    await until(lambda: outcomes["direct"] > 0 or outcomes["failed"] >= RULES.tries, 60)
    if outcomes["direct"]:  # and nothing is left on the relay
        await until(lambda: len(network._connections(ALICE.peer_id)) == 1, 60)
    say(f"then {network.link(ALICE.peer_id)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO if "-v" in sys.argv else logging.CRITICAL, stream=sys.stderr)
    trio.run(relay) if sys.argv[1] == "relay" else trio.run(member, sys.argv[1])
