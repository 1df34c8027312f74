"""gRPC with TLS: a stream of chunks."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import torch

from transports.models import Get, chunks, pack, unpack


def serve_grpc(model: dict[str, torch.Tensor], tls: Path) -> None:
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
    options = [("grpc.max_receive_message_length", -1), ("grpc.ssl_target_name_override", "localhost")]
    credentials = grpc.ssl_channel_credentials((tls / "cert.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call = channel.unary_stream("/bench/get")

        def get() -> None:
            stream = call(b"?")
            digest = next(stream)
            unpack(b"".join(stream), digest)

        yield get
