"""js-ipfs, another implementation of IPFS: its daemon's HTTP RPC driven by our Kubo client, its bitswap by our own.

Its libp2p brings mplex alone, which our host does not speak: for bitswap it gets yamux beside it, from npm too
(jsipfs/bitswap.mjs). `npm install` takes some minutes and 216 MB the first time; the result stays in pytest's cache, or
is in the folder that FL_NODE_TEST_JSIPFS names, which then gets our files.
"""

import base64
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.errors import ContentMissing, StorageError
from node.storage import Bounds, Label, SealedSnapshots, open_snapshots
from tests.network.members import member, until

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "jsipfs"
INSTALL_SECONDS = 540
PR_SET_PDEATHSIG = 1
FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 8000, "empty": b""}


@pytest.fixture(scope="module")
def jsipfs(request):
    """The folder of an installed js-ipfs."""
    if "FL_NODE_TEST_JSIPFS" in os.environ:
        folder = Path(os.environ["FL_NODE_TEST_JSIPFS"])
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
        return folder
    if shutil.which("npm") is None:
        pytest.skip("js-ipfs needs Node.js 20 and npm")
    folder = request.config.cache.mkdir("jsipfs")
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    needed = [folder / "node_modules" / ".bin" / "jsipfs", folder / "node_modules" / "@chainsafe" / "libp2p-yamux"]
    if not all(path.exists() for path in needed):
        install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            pytest.skip(f"npm install of js-ipfs failed: {done.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def daemon_url(jsipfs, tmp_path_factory):
    repository = tmp_path_factory.mktemp("jsipfs")
    preload = f"--no-warnings -r {HERE / 'polyfill.cjs'}"
    environment = {**os.environ, "IPFS_PATH": str(repository), "NODE_OPTIONS": preload}
    command = ["node", str(jsipfs / "node_modules" / ".bin" / "jsipfs")]
    init = [*command, "init", "--profile", "test", "--empty-repo"]
    subprocess.run(init, env=environment, check=True, capture_output=True, timeout=120)
    configure(repository / "config")
    with subprocess.Popen(
        [*command, "daemon", "--enable-preload=false"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    ) as child:
        try:
            yield next(listening(child.stdout))
        finally:
            child.kill()


def configure(path):
    config = json.loads(path.read_text())
    loopback = "/ip4/127.0.0.1/tcp/0"
    config["Addresses"] = {"API": loopback, "Swarm": [loopback], "Gateway": loopback, "RPC": loopback, "Delegates": []}
    config["Bootstrap"] = []
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["Routing"] = {"Type": "none"}
    config["Pubsub"] = {"Enabled": False}
    path.write_text(json.dumps(config))


def listening(lines):
    for line in lines:
        found = re.search(r"HTTP API listening on (/ip4/127\.0\.0\.1/tcp/\d+/http)", line)
        if found:
            yield found[1]
    pytest.fail("js-ipfs ended before it listened")


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture
async def daemon(daemon_url, tmp_path):
    async with open_snapshots(tmp_path / "alice", daemon_url, bounds=Bounds(seconds=30)) as snapshots:
        yield snapshots


async def test_js_ipfs_and_the_embedded_store_agree_on_the_cid(daemon, tmp_path):
    async with open_snapshots(tmp_path / "bob") as embedded:
        assert await daemon.add(FILES) == await embedded.add(FILES)


async def test_what_js_ipfs_keeps_is_read_back_and_listed(daemon, tmp_path):
    cid = await daemon.add(FILES, Label(1, 2, 3))
    assert {entry.name: entry.size for entry in await daemon.entries(cid)} == {
        name: len(content) for name, content in FILES.items()
    }
    assert await daemon.read(cid, "update", 100) == b"payload"
    assert await daemon.fetch_to(cid, "mixed.safetensors", tmp_path / "out", 1 << 22) == 2_048_000
    assert (tmp_path / "out").read_bytes() == FILES["mixed.safetensors"]
    assert [(pin.cid, pin.label) for pin in await daemon.pins()] == [(cid, Label(1, 2, 3))]


async def test_js_ipfs_forgets_what_is_unpinned_and_collected(daemon):
    kept = await daemon.add({"update": b"kept"})
    gone = await daemon.add({"update": b"gone"})
    await daemon.unpin(gone)
    assert (await daemon.gc()).blocks >= 1
    assert await daemon.size() > 0
    assert await daemon.read(kept, "update", 10) == b"kept"


async def test_what_js_ipfs_cannot_find_is_missing_before_the_deadline(daemon_url, tmp_path):
    async with open_snapshots(tmp_path / "alice", daemon_url, bounds=Bounds(seconds=2)) as daemon:
        with pytest.raises((ContentMissing, StorageError)):
            await daemon.pin("bafybeif7hpdcdvrplrvuymqowt3tsxyxhyqthmpydcvhtxvmd5zlgpwcei")


async def test_sealed_snapshots_pass_through_js_ipfs(daemon, tmp_path):
    sealed = SealedSnapshots(daemon, bytes(32), tmp_path)
    cid = await sealed.add(FILES)
    assert await sealed.read(cid, "mixed.safetensors", 1 << 22) == FILES["mixed.safetensors"]


# Bitswap


class JsCore:
    """js-ipfs in a process of its own, which obeys JSON lines."""

    def __init__(self, process):
        self._process = process
        self.about = self._hear()

    def ask(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._hear()
        assert "error" not in answer, answer
        return answer

    def _hear(self):
        return json.loads(self._process.stdout.readline())


@pytest.fixture
def core(jsipfs, tmp_path):
    command = [
        "node",
        "--no-warnings",
        "-r",
        str(HERE / "polyfill.cjs"),
        "bitswap.mjs",
        str(tmp_path / "js-repository"),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "preexec_fn": die_with_parent}
    with subprocess.Popen(command, cwd=jsipfs, **pipes) as process:
        try:
            yield JsCore(process)
        finally:
            process.kill()


@asynccontextmanager
async def met(core, home):
    """Our host with the embedded store, to which js-ipfs has connected."""
    peer = core.about["id"]
    async with member("alice") as alice:

        async def fetch(cids):
            return await alice.fetch_blocks(cids, [peer], trio.current_time() + 30)

        async with open_snapshots(home, fetch=fetch) as embedded:
            alice.serve_blocks(embedded.blocks, lambda _peer: True)
            with trio.fail_after(60):
                await trio.to_thread.run_sync(lambda: core.ask(connect=alice.addresses()[0]))
                await until(lambda: peer in alice.connected())
            yield embedded


async def test_js_ipfs_gets_a_snapshot_from_our_host_over_bitswap(core, tmp_path):
    async with met(core, tmp_path / "alice") as embedded:
        cid = await embedded.add(FILES)
        for name, content in FILES.items():
            with trio.fail_after(60):
                taken = await trio.to_thread.run_sync(lambda name=name: core.ask(cat=f"{cid}/{name}"))
            assert base64.b64decode(taken["content"]) == content


async def test_our_host_gets_a_snapshot_from_js_ipfs_over_bitswap(core, tmp_path):
    files = {name: base64.b64encode(content).decode() for name, content in FILES.items()}
    cid = core.ask(add=files)["cid"]
    async with open_snapshots(tmp_path / "bob") as other:
        assert await other.add(FILES) == cid
    async with met(core, tmp_path / "alice") as embedded:
        await embedded.pin(cid)
        assert not await embedded.damaged()
        assert await embedded.read(cid, "mixed.safetensors", 1 << 22) == FILES["mixed.safetensors"]
