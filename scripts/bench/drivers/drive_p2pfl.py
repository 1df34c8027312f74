"""What p2pfl needs to send tensors to another process: run by exchange.py in a Python that has p2pfl.

`python drive_p2pfl.py BYTES REPETITIONS` prints {"seconds": […], "cpu_seconds": …}, of both processes together. p2pfl
pushes: a transfer lasts from the encoded parameters in the sender to arrays in the receiver, which acknowledges.
Without certificates of its own p2pfl does not encrypt; that is its better case.
"""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import ray
from p2pfl.communication.commands.command import Command
from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol
from p2pfl.learning.compression.manager import CompressionManager
from p2pfl.management.logger import logger
from p2pfl.settings import Settings

LAYER = 25_000_000


class Take(Command):
    """Makes arrays of the weights that arrive."""

    @staticmethod
    def get_name() -> str:
        """What senders call it."""
        return "take"

    def execute(self, source: str, round: int, weights: bytes | None = None, **kwargs: object) -> None:  # noqa: ARG002
        """Decodes; the sender is answered afterwards."""
        assert weights is not None
        arrays, _ = CompressionManager.reverse(weights)
        assert arrays


def protocol_at(port: int) -> GrpcCommunicationProtocol:
    Settings.ssl.USE_SSL = False
    Settings.general.GRPC_TIMEOUT = 600
    protocol = GrpcCommunicationProtocol(commands=[Take()])
    protocol.set_addr(f"127.0.0.1:{port}")
    protocol.start()
    return protocol


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_of(server: subprocess.Popen[str]) -> float:
    server.stdin.write("\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def leave() -> None:
    """Ends this process, and the Ray cluster that importing p2pfl has started."""
    if ray.is_initialized():
        ray.shutdown()
    os._exit(0)


def main() -> None:
    logger.set_level("ERROR")
    if sys.argv[1] == "serve":
        protocol_at(int(sys.argv[2]))
        print("ready", flush=True)
        for _ in sys.stdin:
            print(own_cpu(), flush=True)
        leave()
    size, repetitions = int(sys.argv[1]), int(sys.argv[2])
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, __file__, "serve", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        while server.stdout.readline().strip() != "ready":
            pass
        protocol = protocol_at(port + 1)
        address = f"127.0.0.1:{port}"
        assert protocol.connect(address)
        counts = [LAYER] * (size // 4 // LAYER) + [size // 4 % LAYER]
        arrays = [np.random.rand(count).astype(np.float32) for count in counts if count]
        message = protocol.build_weights("take", 1, CompressionManager.apply(arrays, {}, {}))
        protocol.send(address, message, raise_error=True)
        seconds, start = [], own_cpu() + cpu_of(server)
        for _ in range(repetitions):
            began = time.perf_counter()
            protocol.send(address, message, raise_error=True)
            seconds.append(time.perf_counter() - began)
        busy = own_cpu() + cpu_of(server) - start
        server.stdin.close()
        server.wait(30)
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy}), flush=True)
    leave()


if __name__ == "__main__":
    main()
