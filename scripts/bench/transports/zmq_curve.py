"""ZeroMQ with CURVE."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import zmq

from transports.models import Get, chunks, pack, unpack


def serve_zmq(model: dict[str, torch.Tensor], keys: Path) -> None:
    public, secret = zmq.curve_keypair()
    (keys / "server.key").write_bytes(public)
    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey, router.curve_publickey = True, secret, public
    router.setsockopt(zmq.SNDHWM, 32)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    payload, digest = pack(model)
    print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        peer, _ = router.recv_multipart()
        router.send_multipart([peer, len(payload).to_bytes(8, "big") + digest])
        for chunk in chunks(payload):
            router.send(peer, zmq.SNDMORE)
            router.send(chunk, copy=False)


@contextlib.contextmanager
def get_zmq(port: str, keys: Path) -> Iterator[Get]:
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.curve_serverkey = (keys / "server.key").read_bytes()
    dealer.setsockopt(zmq.RCVHWM, 32)
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def get() -> None:
        dealer.send(b"?")
        header = dealer.recv()
        size, parts, got = int.from_bytes(header[:8], "big"), [], 0
        while got < size:
            parts.append(dealer.recv())
            got += len(parts[-1])
        unpack(b"".join(parts), header[8:])

    yield get
    dealer.close(0)
