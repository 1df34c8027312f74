"""What the coverage-guided fuzzers share (atheris): how one is run, and how a test runs it."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = {"tests.network.fuzz": 4, "tests.learning.fuzz": 12}  # for each target; a minute in all


def fuzz(targets: dict[str, Callable[[bytes], None]], corpus: Path) -> None:
    """`… TARGET SECONDS [FOLDER]`: what reaches new code goes to FOLDER, or else to the corpus."""
    import atheris

    target, seconds = sys.argv[1], sys.argv[2]
    folders = [*sys.argv[3:], str(corpus / target)]  # the first takes what is new
    limits = [f"-max_total_time={seconds}", "-max_len=2000", "-verbosity=0", f"-artifact_prefix={folders[0]}/"]
    atheris.Setup([sys.argv[0], *folders, *limits], targets[target])
    atheris.Fuzz()


def does_no_harm(target: Callable[[bytes], None], corpus: Path) -> None:
    """Feeds a target everything that its fuzzing has found so far."""
    found = sorted(corpus.iterdir())
    assert found
    for each in found:
        target(each.read_bytes())


def finds_nothing_new(module: str, target: str, place: Path) -> None:
    """Fuzzes a target in a process of its own; what is found goes to `place`."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip(f"NOTHING WAS FUZZED in {target}: the package atheris is missing (Linux on x86-64 has it)")
    seconds = SECONDS[module]
    command = [sys.executable, "-W", "ignore", "-m", module, target, str(seconds), str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120 + seconds)
    assert done.returncode == 0, done.stderr[-3000:]
