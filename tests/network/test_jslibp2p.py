"""Another implementation of libp2p, js-libp2p from npm, against our host.

`npm install` takes half a minute and 46 MB the first time; the result stays in pytest's cache, or is what
FL_NODE_TEST_JSLIBP2P names.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from node.network import wire_pb2
from tests.network.members import SESSION, identity, member

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "jslibp2p"
INSTALL_SECONDS = 300


@pytest.fixture(scope="module")
def jslibp2p(request):
    """The folder of an installed js-libp2p with our client."""
    if "FL_NODE_TEST_JSLIBP2P" in os.environ:
        folder = Path(os.environ["FL_NODE_TEST_JSLIBP2P"])
    elif shutil.which("npm") is None:
        pytest.skip("js-libp2p needs Node.js 20 and npm")
    else:
        folder = request.config.cache.mkdir("jslibp2p")
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    if not (folder / "node_modules" / "libp2p").exists():
        install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode:
            pytest.skip(f"npm cannot install js-libp2p: {done.stderr.strip()[:200]}")
    return folder


async def test_a_js_libp2p_peer_pings_identifies_and_is_refused_politely(jslibp2p):
    request = wire_pb2.Request(peers=wire_pb2.PeersRequest(session_id=SESSION)).SerializeToString()
    frame = len(request).to_bytes(4, "big") + request
    async with member("alice", gate={identity("alice").peer_id}.__contains__) as alice:
        command = ["node", "client.mjs", alice.addresses()[0], frame.hex()]
        with trio.fail_after(60):
            done = await trio.run_process(command, cwd=jslibp2p, capture_stdout=True)
        assert alice.standings.refused["stranger-asks"] == 1
    answer = json.loads(done.stdout)
    assert answer["milliseconds"] < 10_000
    assert (answer["encryption"], answer["muxer"]) == ("/noise", "/yamux/1.0.0")
    assert "/fl-node/exchange/1" in answer["protocols"]
    reply = wire_pb2.Reply()
    reply.ParseFromString(bytes.fromhex(answer["reply"])[4:])
    assert reply.refusal.final
    assert "no member" in reply.refusal.reason
