"""Our own network: a payload announced, and pulled by its hash."""

import hashlib
import json
import sys
import time
from pathlib import Path

import torch
import trio
from safetensors.torch import load, load_file

from node.messages import Announcement, announcement_bytes
from node.network.identity import identity_from_seed
from node.network.service import NetworkSettings, open_network
from transports.models import pack


def identity(name: str):
    return identity_from_seed(hashlib.sha256(name.encode()).digest())


def announcement(payload: bytes, digest: bytes):
    who = identity("server")
    signature = who.sign(announcement_bytes(1, 1, digest, len(payload), "float32"))
    return Announcement(1, 1, digest, len(payload), "float32", who.peer_id, signature)


class Shelf(dict[bytes, bytes]):
    """A payload source: payloads by digest."""

    def open(self, digest: bytes) -> bytes | None:
        """The payload, or None."""
        return self.get(digest)


def settings(peers: tuple[str, ...]):
    return NetworkSettings(("/ip4/127.0.0.1/tcp/0",), peers, mdns=False, session_id=1, payload_limit=1 << 40)


def serve_fl_node(model: dict[str, torch.Tensor]) -> None:
    payload, digest = pack(model)
    said = announcement(payload, digest)

    async def main() -> None:
        shelf = Shelf({digest: payload})
        async with open_network(identity("server"), settings(()), lambda _: True, shelf, lambda _: [said]) as net:
            print(net.addresses()[0], flush=True)
            await trio.sleep_forever()

    trio.run(main)


async def get_fl_node(address: str) -> None:
    """Like `ends.answer`, inside the node's own event loop."""
    peers = (address,)
    async with open_network(identity("client"), settings(peers), lambda _: True, Shelf(), lambda _: []) as net:
        with trio.fail_after(60):
            said = await net.announcements.receive()
        print("ready", flush=True)
        while count := int(await trio.to_thread.run_sync(sys.stdin.readline) or 0):
            busy, seconds = time.process_time(), []
            for _ in range(count):
                began = time.perf_counter()
                payload = await net.fetch(said, [said.peer_id], trio.current_time() + 600)
                if isinstance(payload, Path):
                    load_file(payload)
                    payload.unlink()
                else:
                    load(payload)
                seconds.append(time.perf_counter() - began)
            print(json.dumps({"seconds": seconds, "busy": time.process_time() - busy}), flush=True)
