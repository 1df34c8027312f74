"""A stranger that means ill, in a process of its own: `python -m tests.network.hostile_client SEED ADDRESS…`.

Plays one attack after the other on all the addresses until it is ended, then prints how often each was played.
"""

import json
import logging
import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress

import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_uvarint

from node.errors import PeerError
from node.network import wire_pb2
from node.network.addresses import host_and_port, parse_peer_address
from node.network.host import RunningHost, dial, run_host
from tests.network.members import LOOPBACK, SESSION, identity

PROTOCOLS = ("/fl-node/exchange/1", "/meshsub/1.1.0", "/ipfs/bitswap/1.2.0", "/rendezvous/1.0.0", "/fl-node/kad/1.0.0")
PAUSE = 0.05
HELD = 64  # connections that say nothing
PLAIN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
REFUSED = (PeerError, BaseLibp2pError, *PLAIN)


class Mallory:
    """One hostile client."""

    def __init__(self, seed: int, addresses: list[str], running: RunningHost, nursery: trio.Nursery) -> None:
        self.chance = random.Random(seed)
        self.victims = [parse_peer_address(address) for address in addresses]
        self.running = running
        self.nursery = nursery
        self.played: Counter[str] = Counter()
        self.held = trio.CapacityLimiter(HELD)

    async def play(self) -> None:
        attacks = [self.garbage, self.silence, self.stranger, self.half_open, self.oversized, self.flood]
        while True:
            attack = self.chance.choice(attacks)
            with suppress(*REFUSED), trio.move_on_after(5):
                await attack(self.chance.choice(self.victims))
            self.played[attack.__name__] += 1
            await trio.sleep(PAUSE)

    async def garbage(self, victim) -> None:
        prefix = self.chance.choice([b"", b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x07/noise\n"])
        async with await trio.open_tcp_stream(*host_and_port(victim.address)) as stream:
            await stream.send_all(prefix + self.chance.randbytes(self.chance.randrange(20_000)))

    async def silence(self, victim) -> None:
        async def hold() -> None:
            with suppress(*PLAIN):
                async with self.held, await trio.open_tcp_stream(*host_and_port(victim.address)):
                    await trio.sleep(20)

        if self.held.available_tokens:
            self.nursery.start_soon(hold)

    async def stranger(self, victim) -> None:
        stream = await self.open(victim, PROTOCOLS[0])
        digest = self.chance.randbytes(32)
        for request in (
            wire_pb2.Request(peers=wire_pb2.PeersRequest(session_id=SESSION, own_addresses=["x"] * 100)),
            wire_pb2.Request(payload=wire_pb2.PayloadRequest(digest=digest, offset=1 << 60)),
        ):
            body = request.SerializeToString()
            await stream.write(len(body).to_bytes(4, "big") + body)
        await stream.read(1000)

    async def half_open(self, victim) -> None:
        for protocol in self.chance.sample(PROTOCOLS, 3):
            with suppress(*REFUSED):
                await (await self.open(victim, protocol)).write(b"\x00\x00\x01")

    async def oversized(self, victim) -> None:
        stream = await self.open(victim, self.chance.choice(PROTOCOLS))
        await stream.write(self.chance.choice([(1 << 31).to_bytes(4, "big"), encode_uvarint(1 << 50)]) + bytes(100_000))

    async def flood(self, victim) -> None:
        stream = await self.open(victim, self.chance.choice(PROTOCOLS))
        for _ in range(50):
            content = self.chance.randbytes(self.chance.randrange(1, 500))
            await stream.write(encode_uvarint(len(content)) + content)

    async def open(self, victim, protocol: str):
        peer_id = ID.from_string(victim.peer_id)
        if not self.running.host.get_network().get_connections(peer_id):
            await dial(self.running.host, victim.peer_id, victim.address, 5)
        return await self.running.host.new_stream(peer_id, [TProtocol(protocol)])


async def main(seed: int, addresses: list[str]) -> None:
    own = identity(f"hostile client {seed} of {os.getpid()}")
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with run_host(own, [LOOPBACK], lambda peer_id: True) as running, trio.open_nursery() as nursery:
            mallory = Mallory(seed, addresses, running, nursery)
            nursery.start_soon(mallory.play)
            await anext(signals)
            nursery.cancel_scope.cancel()
    print(json.dumps(mallory.played), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(main, int(sys.argv[1]), sys.argv[2:])
