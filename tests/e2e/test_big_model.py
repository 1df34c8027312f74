"""What a model that fills the memory takes on each side, beyond a node with a tiny one."""

import json
import subprocess
import sys

import pytest

from tests.nodes import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "bench" / "big_model.py"
BAR = 2.7  # the is 3; measured: 2.1
MEGABYTES = 100  # above what is kept in memory, and enough that it stands out


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "update"), [("fedavg", "parameters"), ("sgd", "gradients")])
def test_a_model_takes_less_than_three_times_its_size_on_each_side(rule, update):
    command = [sys.executable, SCRIPT, "--json", "--megabytes", str(MEGABYTES), "--rule", rule, "--bar", str(BAR)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["rule"], report["update"]) == (rule, update)
    for side in ("coordinator", "workers"):
        assert 0.5 < report[side]["ratio"] < BAR, report
