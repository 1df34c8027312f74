"""An auditor's memory is bounded by one mixing step, however long the run was; it needs only public things."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from ledger import Devnet, DevnetOptions
from node.learning.parameters import ParameterSpec
from tests.audit.forge import Forgery
from tests.nodes import REPOSITORY

pytestmark = pytest.mark.real
MODEL = ParameterSpec(("weight",), ((500, 1000),))  # 2 MB
PEAK = "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:]).returncode; "
PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"


def audit(place, *arguments):
    """Exit status, report and the peak of resident memory in MB, of an audit in a process that knows no home."""
    command = [sys.executable, "-c", PEAK, sys.executable, "-m", "node", "audit", "--json"]
    command += ["--session", str(place / "session.toml"), "--ipfs", str(place), *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH"}}
    with tempfile.TemporaryDirectory() as nowhere:
        environment = {**kept, "HOME": nowhere, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
        left = os.listdir(nowhere)
    report, peak = ended.stdout.strip().splitlines()
    assert not left
    return ended.returncode, json.loads(report), int(peak) / 1024


def test_memory_does_not_grow_with_the_run_and_no_key_or_home_is_needed(tmp_path):
    with Devnet(DevnetOptions(block_time=0, free_gas=True)) as devnet:
        forgery = Forgery(devnet.connect(), tmp_path / "member", members=3, rounds=12, spec=MODEL)
        forgery.place.mkdir()
        forgery.record()
        public = tmp_path / "public"  # what an auditor gets: the session file and blocks of IPFS
        public.mkdir()
        shutil.copy(forgery.place / "session.toml", public)
        shutil.copytree(forgery.place / "ipfs", public / "ipfs")
        short = audit(public, "--to", 2)
        whole = audit(public)
    for code, report, _ in (short, whole):
        assert code == 0
        assert report["clean"] is True
    assert (short[1]["steps_replayed"], whole[1]["steps_replayed"]) == (6, 36)
    # Thirty steps more would hold 30 vectors if each kept only one; an allocator's own peaks differ by some 10 MB.
    assert whole[2] - short[2] < 0.5 * 30 * MODEL.payload_size / 1e6
