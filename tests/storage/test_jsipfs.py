"""The daemon of js-ipfs, another implementation of the same HTTP RPC and of UnixFS, driven by our Kubo client.

`npm install` takes some minutes and 216 MB the first time; the result stays in pytest's cache, or is what
FL_NODE_TEST_JSIPFS names.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from node.errors import ContentMissing, StorageError
from node.storage import Bounds, Label, SealedSnapshots, open_snapshots

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "jsipfs"
INSTALL_SECONDS = 540
PR_SET_PDEATHSIG = 1
FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 8000, "empty": b""}


@pytest.fixture(scope="module")
def jsipfs(request):
    """The folder of an installed js-ipfs."""
    if "FL_NODE_TEST_JSIPFS" in os.environ:
        return Path(os.environ["FL_NODE_TEST_JSIPFS"])
    if shutil.which("npm") is None:
        pytest.skip("js-ipfs needs Node.js 20 and npm")
    folder = request.config.cache.mkdir("jsipfs")
    if not (folder / "node_modules" / ".bin" / "jsipfs").exists():
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
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


async def test_sealed_snapshots_pass_through_js_ipfs(daemon):
    sealed = SealedSnapshots(daemon, bytes(32))
    cid = await sealed.add(FILES)
    assert await sealed.read(cid, "mixed.safetensors", 1 << 22) == FILES["mixed.safetensors"]
