"""One process of a pair: serves the model, or gets it as often as each line on standard input says."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import trio

from transports.fl_node import get_fl_node, serve_fl_node
from transports.grpc_tls import get_grpc, serve_grpc
from transports.models import Get
from transports.sockets import get_sockets, serve_sockets
from transports.zmq_curve import get_zmq, serve_zmq

SERVERS: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "fl-node": lambda model, _: serve_fl_node(model),
    "tcp": lambda model, _: serve_sockets(model, None),
    "tls": serve_sockets,
    "grpc-tls": serve_grpc,
    "zmq-curve": serve_zmq,
}
CLIENTS: dict[str, Callable[[str, Path], contextlib.AbstractContextManager[Get]]] = {
    "tcp": lambda port, _: get_sockets(port, None),
    "tls": get_sockets,
    "grpc-tls": get_grpc,
    "zmq-curve": get_zmq,
}


def answer(get: Get) -> None:
    """Makes as many transfers as each line on standard input says, and prints how long each took."""
    print("ready", flush=True)
    for line in sys.stdin:
        busy, seconds = time.process_time(), []
        for _ in range(int(line)):
            began = time.perf_counter()
            get()
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "busy": time.process_time() - busy}), flush=True)


def be_client(transport: str, address: str, place: Path) -> None:
    """The client of a transport, until its standard input ends."""
    if transport == "fl-node":
        trio.run(get_fl_node, address)
    else:
        with CLIENTS[transport](address, place) as get:
            answer(get)
