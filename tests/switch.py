"""An Ethernet switch in user space with a fate for every frame: lost, late, or one of a queue with a rate.

    python -m tests.switch COUNT          carries frames between p0, p1, …; orders are JSON lines on standard input
    python -m tests.switch --plain NAME   has the kernel send this device's frames whole: small, with their checksums

It stands in for netem, which not every kernel has: what it carries are the hosts' real TCP segments.
"""

import ctypes
import fcntl
import heapq
import itertools
import json
import random
import select
import socket
import struct
import sys
import time

EVERYTHING = 0x0003  # ETH_P_ALL
SIOCETHTOOL = 0x8946
OFFLOADS = (0x0017, 0x001F, 0x0024, 0x0019)  # SET_TXCSUM, SET_TSO, SET_GSO, SET_SG
LARGEST = 65_535
QUEUE_S = 0.5  # of a wire with a rate: what would wait longer is lost, as in a router
BATCH = 64


def send_plain(device: str) -> None:
    """Turns off the offloads that leave segments unsplit and checksums open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for offload in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", offload, 0), 8)
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


class Wire:
    """One direction between two hosts."""

    def __init__(self, loss: float = 0.0, delay: float = 0.0, rate: float = 0.0) -> None:
        self.loss, self.delay, self.rate = loss, delay, rate
        self._free_at = 0.0
        self.counts = {"bytes": 0, "lost": 0, "busy_s": 0.0}  # of a wire with a rate: taken, too many, time on the wire

    def arrival(self, now: float, size: int, chance: random.Random) -> float | None:
        """When a frame comes out; None if it never does."""
        if self.loss and chance.random() < self.loss:
            return None
        if not self.rate:
            return now + self.delay
        start = max(now, self._free_at)
        if start - now > QUEUE_S:
            self.counts["lost"] += 1
            return None
        self._free_at = start + size / self.rate
        self.counts["bytes"] += size
        self.counts["busy_s"] += size / self.rate
        return self._free_at + self.delay


class Switch:
    """Carries frames between its ports."""

    def __init__(self, count: int) -> None:
        self.ports = [open_port(f"p{index}") for index in range(count)]
        self.wires = {pair: Wire() for pair in itertools.permutations(range(count), 2)}
        self.links = {(index, way): Wire() for index in range(count) for way in ("up", "down")}
        self.where: dict[bytes, int] = {}
        self.late: list[tuple[float, int, int, bytes]] = []
        self.order = itertools.count()
        self.chance = random.Random(7)
        self.counts = {"carried": 0, "lost": 0}

    def run(self) -> None:
        poll = select.epoll()
        numbers = {port.fileno(): index for index, port in enumerate(self.ports)}
        for number in (*numbers, sys.stdin.fileno()):
            poll.register(number, select.EPOLLIN)
        print("ready", flush=True)
        while True:
            patience = max(0.0, self.late[0][0] - time.monotonic()) if self.late else None
            for number, _ in poll.poll(patience):
                if number == sys.stdin.fileno():
                    line = sys.stdin.readline()
                    if not line:
                        return
                    print(json.dumps(self.obey(json.loads(line))), flush=True)
                else:
                    self.take(numbers[number])
            self.deliver()

    def obey(self, order: dict) -> dict:
        if "counts" in order:
            return self.counts
        if "heal" in order:
            self.wires = {pair: Wire() for pair in self.wires}
            self.links = {link: Wire() for link in self.links}
        elif "link" in order:
            return {way: self.links[order["link"], way].counts for way in ("up", "down")}
        elif "host" in order:
            host = order.pop("host")
            self.links |= {(host, "up"): Wire(**order), (host, "down"): Wire(**order)}
        else:
            pair = order.pop("from"), order.pop("to")
            self.wires[pair] = Wire(**order)
        return {}

    def take(self, source: int) -> None:
        for _ in range(BATCH):
            try:
                frame, about = self.ports[source].recvfrom(LARGEST)
            except BlockingIOError:
                return
            if about[2] == socket.PACKET_OUTGOING:  # what we put there ourselves
                continue
            self.where[frame[6:12]] = source
            known = self.where.get(frame[:6])
            if known is not None and not frame[0] & 1:
                self.forward(source, known, frame)
            else:
                for target in range(len(self.ports)):
                    self.forward(source, target, frame)

    def forward(self, source: int, target: int, frame: bytes) -> None:
        if source == target:
            return
        at = now = time.monotonic()
        for stage in (self.links[source, "up"], self.wires[source, target], self.links[target, "down"]):
            at = stage.arrival(at, len(frame), self.chance)
            if at is None:
                self.counts["lost"] += 1
                return
        if at <= now:
            self.put(target, frame)
        else:
            heapq.heappush(self.late, (at, next(self.order), target, frame))

    def deliver(self) -> None:
        while self.late and self.late[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self.late)
            self.put(target, frame)

    def put(self, target: int, frame: bytes) -> None:
        try:
            self.ports[target].send(frame)
            self.counts["carried"] += 1
        except OSError:  # a full queue: a real switch drops here too
            self.counts["lost"] += 1


def open_port(device: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.bind((device, 0))
    port.setblocking(False)
    return port


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        send_plain(sys.argv[2])
    else:
        Switch(int(sys.argv[1])).run()
