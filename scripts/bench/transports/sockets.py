"""Plain TCP, and TLS 1.3."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import torch

from transports.models import Get, chunks, pack, unpack

DIGEST_BYTES = 32


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
