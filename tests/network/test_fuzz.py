"""Decoders against what fuzzing has found so far, and against a minute of more of it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network.fuzz import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = 60


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_were_found_before_do_no_harm(target):
    found = sorted((CORPUS / target).iterdir())
    assert found
    for each in found:
        TARGETS[target](each.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_coverage_guided_fuzzer_finds_nothing_new(target, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs the package atheris")
    seconds = str(SECONDS // len(TARGETS))
    command = [sys.executable, "-W", "ignore", "-m", "tests.network.fuzz", target, seconds, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr[-3000:]
