"""What hivemind needs to load tensors from another process: run by exchange.py in a Python that has hivemind.

`python drive_hivemind.py BYTES REPETITIONS` prints {"seconds": […], "cpu_seconds": …}, of both processes and their
libp2p daemons together. A transfer is `load_state_from_peers`, which is how a hivemind peer gets a model.
"""

import json
import subprocess
import sys
import time

import hivemind
import psutil
import torch
from hivemind.averaging import DecentralizedAverager

LAYER = 25_000_000
PREFIX = "bench"


def tensors_of(size: int) -> list[torch.Tensor]:
    counts = [LAYER] * (size // 4 // LAYER) + [size // 4 % LAYER]
    return [torch.rand(count) for count in counts if count]


def averager(dht: hivemind.DHT, tensors: list[torch.Tensor], *, shares: bool) -> DecentralizedAverager:
    return DecentralizedAverager(
        tensors,
        dht,
        prefix=PREFIX,
        start=True,
        allow_state_sharing=shares,
        min_group_size=2,
        target_group_size=2,
    )


def cpu_of(process: psutil.Process) -> float:
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def main() -> None:
    if sys.argv[1] == "serve":
        dht = hivemind.DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
        averager(dht, tensors_of(int(sys.argv[2])), shares=True)
        print(json.dumps([str(address) for address in dht.get_visible_maddrs()]), flush=True)
        sys.stdin.readline()
        return
    size, repetitions = int(sys.argv[1]), int(sys.argv[2])
    command = [sys.executable, __file__, "serve", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        addresses = json.loads(server.stdout.readline())
        dht = hivemind.DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=addresses, start=True)
        taker = averager(dht, [torch.zeros_like(each) for each in tensors_of(size)], shares=False)
        processes = [psutil.Process(), psutil.Process(server.pid)]
        seconds, start = [], 0.0
        for repetition in range(repetitions + 1):
            if repetition == 1:  # the first one warms up
                start = sum(map(cpu_of, processes))
            began = time.perf_counter()
            found = taker.load_state_from_peers(timeout=300)
            seconds.append(time.perf_counter() - began)
            assert found is not None
        busy = sum(map(cpu_of, processes)) - start
        print(json.dumps({"seconds": seconds[1:], "cpu_seconds": busy}), flush=True)
        taker.shutdown()
        dht.shutdown()
        server.stdin.write("\n")
        server.stdin.flush()


if __name__ == "__main__":
    main()
