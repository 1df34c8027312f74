"""Two NATs and the network between them, in user space: `python -m tests.network.nat cone|symmetric`.

Run in a namespace of its own, it makes three TUN devices and moves them to the namespaces LEFT, RIGHT and MIDDLE, which
it is told: behind `left` and `right` are private networks, each with one public address; `middle` is public. Prints
"ready", then on each line that it is sent the bytes that went between the two NATs without the one in the middle.

Ports are mapped in order from FIRST_PORT on, never kept. A cone NAT has one mapping for an inside port, whatever it
sends to (endpoint-independent mapping, RFC 4787); a symmetric one has another for each place. Both let in only what
comes from a place that was sent to through the same mapping (address and port-dependent filtering), and drop the rest
without a word.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
TCP = 6
FIRST_PORT = 20_000
LARGEST = 65_535

Place = tuple[bytes, int]  # IPv4 address and port


def ip4(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


PUBLIC = {"left": ip4("198.51.100.1"), "right": ip4("198.51.100.2"), "middle": ip4("198.51.100.3")}
PRIVATE = {"left": ip4("10.1.0.2"), "right": ip4("10.2.0.2"), "middle": PUBLIC["middle"]}


@dataclass
class Nat:
    """Translates the IPv4 TCP packets of the hosts behind one public address."""

    public: bytes
    symmetric: bool = False
    mappings: dict[tuple[Place, Place | None], int] = field(default_factory=dict)  # inside, to whom → public port
    inside: dict[int, Place] = field(default_factory=dict)  # public port → inside
    sent_to: set[tuple[int, Place]] = field(default_factory=set)  # public port, to whom
    dropped: int = 0

    def out(self, packet: bytes) -> bytes:
        """A packet from inside as it leaves."""
        source, to = source_of(packet), destination_of(packet)
        key = (source, to if self.symmetric else None)
        port = self.mappings.setdefault(key, FIRST_PORT + len(self.mappings))
        self.inside[port] = source
        self.sent_to.add((port, to))
        return readdressed(packet, (self.public, port), to)

    def into(self, packet: bytes) -> bytes | None:
        """A packet from outside as it arrives inside; None if nobody asked for it."""
        source, (_, port) = source_of(packet), destination_of(packet)
        if (port, source) not in self.sent_to:
            self.dropped += 1
            return None
        return readdressed(packet, source, self.inside[port])


def header_length(packet: bytes) -> int:
    return 4 * (packet[0] & 15)


def is_tcp(packet: bytes) -> bool:
    """Whether it is an unfragmented TCP segment over IPv4."""
    whole = len(packet) >= 40 and packet[0] >> 4 == 4 and packet[9] == TCP
    return whole and not struct.unpack_from("!H", packet, 6)[0] & 0x3FFF


def source_of(packet: bytes) -> Place:
    return packet[12:16], struct.unpack_from("!H", packet, header_length(packet))[0]


def destination_of(packet: bytes) -> Place:
    return packet[16:20], struct.unpack_from("!H", packet, header_length(packet) + 2)[0]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def readdressed(packet: bytes, source: Place, to: Place) -> bytes:
    """The packet with other ends and fresh checksums."""
    length = header_length(packet)
    head, segment = bytearray(packet[:length]), bytearray(packet[length:])
    head[10:12] = bytes(2)
    head[12:20] = source[0] + to[0]
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    segment[0:4] = struct.pack("!HH", source[1], to[1])
    segment[16:18] = bytes(2)
    pseudo = source[0] + to[0] + struct.pack("!BBH", 0, TCP, len(segment))
    segment[16:18] = checksum(pseudo + bytes(segment)).to_bytes(2, "big")
    return bytes(head + segment)


class Internet:
    """Carries packets between the two NATs and the public host; `direct` counts bytes from NAT to NAT."""

    def __init__(self, send: dict[str, Callable[[bytes], object]], *, symmetric: bool) -> None:
        self._send = send
        self._nats = {side: Nat(PUBLIC[side], symmetric) for side in ("left", "right")}
        self._sides = {address: side for side, address in PUBLIC.items()}
        self.direct = 0

    def carry(self, side: str, packet: bytes) -> None:
        """Takes a packet from a side to where it goes; what goes nowhere is dropped."""
        if not is_tcp(packet):
            return
        if side in self._nats:
            packet = self._nats[side].out(packet)
        to = self._sides.get(destination_of(packet)[0])
        if to is None or to == side:
            return
        arriving = self._nats[to].into(packet) if to in self._nats else packet
        if arriving is not None:
            self.direct += len(arriving) if "middle" not in (side, to) else 0
            self._send[to](arriving)


def open_tun(side: str, namespace: str) -> int:
    """A TUN device in a namespace, whose packets we read and write here."""
    device, name = os.open("/dev/net/tun", os.O_RDWR), f"tun{side}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    address = ".".join(map(str, PRIVATE[side]))
    for words in (
        ("link", "set", name, "netns", namespace),
        ("-n", namespace, "address", "add", f"{address}/32", "dev", name),
        ("-n", namespace, "link", "set", "lo", "up"),
        ("-n", namespace, "link", "set", name, "up"),
        ("-n", namespace, "route", "add", "default", "dev", name),
    ):
        subprocess.run(["ip", *words], check=True)
    return device


def main(kind: str, *namespaces: str) -> None:
    devices = {side: open_tun(side, where) for side, where in zip(("left", "right", "middle"), namespaces, strict=True)}
    send = {side: lambda packet, device=device: os.write(device, packet) for side, device in devices.items()}
    internet = Internet(send, symmetric=kind == "symmetric")
    sides = {device: side for side, device in devices.items()}
    print("ready", flush=True)
    while True:
        for ready in select.select([*sides, sys.stdin], [], [])[0]:
            if ready is not sys.stdin:
                internet.carry(sides[ready], os.read(ready, LARGEST))
            elif os.read(sys.stdin.fileno(), LARGEST):
                print(internet.direct, flush=True)
            else:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
