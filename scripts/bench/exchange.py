"""How fast a model gets from one process to another: `python scripts/bench/exchange.py [--json] [--sizes …]`.

Two processes on loopback. The server serialises the model once (safetensors), as a member does once a round; each
repetition asks for it, moves the bytes, checks their SHA-256 in the client and makes tensors of them there, with every
transport alike; medians, the transports taking turns. `tcp`, `tls`, `grpc-tls` and `zmq-curve` are the same work over
other transports; `p2pfl` and `hivemind` are what those libraries themselves do with the same tensors, where a Python
of their own has them (--p2pfl-python, --hivemind-python).

With --json the last line is {"rows": [{"transport", "bytes", "mb_per_s", "latency_ms", "cpu_s_per_gb"}]}.
"""

import argparse
import contextlib
import hashlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save

SIZES = {"31kB": 31_000, "1MB": 10**6, "100MB": 10**8, "1GB": 10**9}
REPETITIONS = {"31kB": 400, "1MB": 100, "100MB": 9, "1GB": 3}
CHUNK = 1 << 20
LAYER = 25_000_000  # largest tensor, parameters
TURNS_UP_TO = 10**8  # bytes; larger models are not held by all transports at once
DIGEST_BYTES = 32
TICKS = os.sysconf("SC_CLK_TCK")
DRIVERS = Path(__file__).parent / "drivers"

Get = Callable[[], None]  # one transfer, from request to verified tensors


def make_model(size: int) -> dict[str, torch.Tensor]:
    """Random float32 tensors of about `size` bytes together, in layers as a network would have them."""
    generator = torch.Generator().manual_seed(1)
    left, tensors = size // 4, {}
    while left:
        count = min(left, LAYER)
        tensors[f"layer{len(tensors):03d}"] = torch.rand(count, generator=generator)
        left -= count
    return tensors


def pack(model: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
    payload = save(model)
    return payload, hashlib.sha256(payload).digest()


def unpack(payload: bytes | bytearray, digest: bytes) -> dict[str, torch.Tensor]:
    if hashlib.sha256(payload).digest() != digest:
        raise SystemExit("the payload is not what was sent")
    return load(bytes(payload) if isinstance(payload, bytearray) else payload)


def chunks(payload: bytes) -> Iterator[memoryview]:
    view = memoryview(payload)
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


# Sockets: tcp, tls


def serve_sockets(model: dict[str, torch.Tensor], tls: Path | None) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    print(listener.getsockname()[1], flush=True)
    connection: socket.socket = listener.accept()[0]
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        connection = context.wrap_socket(connection, server_side=True)
    payload, digest = pack(model)
    while connection.recv(1):
        connection.sendall(len(payload).to_bytes(8, "big") + digest)
        for chunk in chunks(payload):
            connection.sendall(chunk)


@contextlib.contextmanager
def get_sockets(port: str, tls: Path | None) -> Iterator[Get]:
    connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        context = ssl.create_default_context(cafile=str(tls / "cert.pem"))
        connection = context.wrap_socket(connection, server_hostname="localhost")

    def get() -> None:
        connection.sendall(b"?")
        header = bytearray()
        while len(header) < 8 + DIGEST_BYTES:
            header += connection.recv(8 + DIGEST_BYTES - len(header))
        payload = bytearray(int.from_bytes(header[:8], "big"))
        view = memoryview(payload)
        while view:
            view = view[connection.recv_into(view) :]
        unpack(payload, bytes(header[8:]))

    with connection:
        yield get


# gRPC over TLS


def serve_grpc(model: dict[str, torch.Tensor], tls: Path) -> None:
    import grpc

    payload, digest = pack(model)

    def answer(_request: bytes, _context: object) -> Iterator[bytes]:
        yield digest
        for chunk in chunks(payload):
            yield bytes(chunk)

    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    method = grpc.unary_stream_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"get": method}),))
    pair = ((tls / "key.pem").read_bytes(), (tls / "cert.pem").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


@contextlib.contextmanager
def get_grpc(port: str, tls: Path) -> Iterator[Get]:
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.ssl_target_name_override", "localhost")]
    credentials = grpc.ssl_channel_credentials((tls / "cert.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call = channel.unary_stream("/bench/get")

        def get() -> None:
            stream = call(b"?")
            digest = next(stream)
            unpack(b"".join(stream), digest)

        yield get


# ZeroMQ with CURVE


def serve_zmq(model: dict[str, torch.Tensor], keys: Path) -> None:
    import zmq

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
    import zmq

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


# fl-node


def identity(name: str):
    from node.network.identity import identity_from_seed

    return identity_from_seed(hashlib.sha256(name.encode()).digest())


def announcement(payload: bytes, digest: bytes):
    from node.messages import Announcement, announcement_bytes

    who = identity("server")
    signature = who.sign(announcement_bytes(1, 1, digest, len(payload), "float32"))
    return Announcement(1, 1, digest, len(payload), "float32", who.peer_id, signature)


class Shelf(dict[bytes, bytes]):
    """A payload source: payloads by digest."""

    def open(self, digest: bytes) -> bytes | None:
        """The payload, or None."""
        return self.get(digest)


def settings(peers: tuple[str, ...]):
    from node.network.service import NetworkSettings

    return NetworkSettings(("/ip4/127.0.0.1/tcp/0",), peers, mdns=False, session_id=1, payload_limit=1 << 40)


def serve_fl_node(model: dict[str, torch.Tensor]) -> None:
    import trio

    from node.network.service import open_network

    payload, digest = pack(model)
    said = announcement(payload, digest)

    async def main() -> None:
        shelf = Shelf({digest: payload})
        async with open_network(identity("server"), settings(()), lambda _: True, shelf, lambda _: [said]) as net:
            print(net.addresses()[0], flush=True)
            await trio.sleep_forever()

    trio.run(main)


async def get_fl_node(address: str) -> None:
    """Like `answer`, inside the node's own event loop."""
    import trio

    from node.network.service import open_network

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


# Measuring

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
    if transport == "fl-node":
        import trio

        trio.run(get_fl_node, address)
    else:
        with CLIENTS[transport](address, place) as get:
            answer(get)


def cpu_of(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Pair:
    """A server and a client process."""

    def __init__(self, transport: str, size: str, place: Path) -> None:
        self.transport, self.size = transport, size
        self.seconds: list[float] = []
        self.busy = 0.0
        self.server = start("--serve", transport, "--sizes", size, "--place", str(place))
        address = heard(self.server)
        self.client = start("--get", transport, "--address", address, "--place", str(place))
        assert heard(self.client) == "ready"
        self.transfer(1)
        self.seconds.clear()  # that one warmed up
        self.busy = -cpu_of(self.server.pid)

    def transfer(self, count: int) -> None:
        """Makes `count` transfers and notes how long they took."""
        assert self.client.stdin is not None
        self.client.stdin.write(f"{count}\n")
        self.client.stdin.flush()
        done = json.loads(heard(self.client))
        self.seconds += done["seconds"]
        self.busy += done["busy"]

    def close(self) -> dict[str, object]:
        """The row; ends both processes."""
        busy = self.busy + cpu_of(self.server.pid)
        for process in (self.client, self.server):
            process.kill()
            process.communicate()
        return row(self.transport, SIZES[self.size], self.seconds, busy)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def measure(transports: list[str], size: str, place: Path) -> list[dict[str, object]]:
    """Rows; the transports take turns, so that whatever else the machine does falls on all alike."""
    if SIZES[size] > TURNS_UP_TO:
        return [each for transport in transports for each in measure_in_turns([transport], size, place)]
    return measure_in_turns(transports, size, place)


def measure_in_turns(transports: list[str], size: str, place: Path) -> list[dict[str, object]]:
    pairs = [Pair(transport, size, place) for transport in transports]
    turn = max(1, REPETITIONS[size] // 20)
    for _ in range(REPETITIONS[size] // turn):
        for pair in pairs:
            pair.transfer(turn)
    return [pair.close() for pair in pairs]


def row(transport: str, size: int, seconds: list[float], busy: float) -> dict[str, object]:
    median = statistics.median(seconds)
    return {
        "transport": transport,
        "bytes": size,
        "mb_per_s": round(size / 1e6 / median, 1),
        "latency_ms": round(median * 1e3, 3),
        "cpu_s_per_gb": round(busy / len(seconds) / size * 1e9, 2),
    }


def measure_driver(name: str, python: str, size: str) -> dict[str, object] | None:
    """What drivers/drive_<name>.py measures in the Python that has the library; None if it cannot."""
    command = [python, str(DRIVERS / f"drive_{name}.py"), str(SIZES[size]), str(max(2, REPETITIONS[size] // 4))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        print(f"{name} does not work with {python}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return row(name, SIZES[size], answer["seconds"], answer["cpu_seconds"])


def certificate(place: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = builder.sign(key, hashes.SHA256())
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))


def show(measured: dict[str, object]) -> None:
    line = (
        "{transport:10} {bytes:>13,} bytes {mb_per_s:>9.1f} MB/s {latency_ms:>10.2f} ms {cpu_s_per_gb:>7.2f} CPU s/GB"
    )
    print(line.format(**measured), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--transports", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--p2pfl-python", help="a Python that has p2pfl")
    parser.add_argument("--hivemind-python", help="a Python that has hivemind")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--get", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.serve:
        SERVERS[options.serve](make_model(SIZES[options.sizes[0]]), options.place)
        return
    if options.get:
        be_client(options.get, options.address, options.place)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        certificate(place)
        for size in options.sizes:
            found: list[dict[str, object] | None] = [*measure(options.transports, size, place)]
            for library in ("p2pfl", "hivemind"):
                python = getattr(options, f"{library}_python")
                found.append(measure_driver(library, python, size) if python else None)
            for each in filter(None, found):
                rows.append(each)
                show(each)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
