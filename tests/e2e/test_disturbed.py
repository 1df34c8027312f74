"""The session with all faults at once, in a short form of `scripts/bench/disturbed.py`."""

import json
import subprocess
import sys

import pytest

from tests.hosts import NEEDED, hosts_are_possible
from tests.nodes import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "bench" / "disturbed.py"


@pytest.mark.slow
def test_a_dead_worker_a_dead_coordinator_and_a_cut_cable_cost_no_accuracy_and_the_audit_is_clean():
    if not hosts_are_possible():
        pytest.skip(NEEDED)
    command = [sys.executable, SCRIPT, "--json", "--rounds", "20", "--cut", "20", "--away", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["fault"] == "cable"
    assert report["accuracy_difference"] <= 0.3
    assert report["audit"]["clean"]
    assert report["audit"]["steps_replayed"] == report["audit"]["steps_total"]
    for fault in ("killed", "cut"):
        assert report["absent_rounds"][str(report[fault]["member"])] > 0
        assert report[fault]["returned"] is not None
    for line in ("accuracy undisturbed", "difference", "cable cut", "audit"):
        assert line in done.stderr
