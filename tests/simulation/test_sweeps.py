"""Sweeps: what is on file is never computed again, and nothing on file is lost."""

import dataclasses
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.errors import ConfigError, NodeError
from node.simulation.results import key, measure, over_seeds
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import in_processes, read_rows, row_of, run_sweep

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"


ROW = (
    b'{"key": "a", "settings": {}, "common_accuracy": 1.0, "own_accuracy": null, "std_over_members": 0, '
    b'"attacker_weight": 0, "seconds": 1, "bytes_per_member_round": 9}'
)


def runs(count, **options):
    return [SimulationSettings(task=TASK, members=2, **{"rounds": 1, "seed": seed, **options}) for seed in range(count)]


def sweep(out, settings, processes=1):
    calls = []
    run_sweep(settings, out, processes, lambda over, total: calls.append((over, total)))
    return calls


def told(rows):
    """Rows by key, without the seconds that they took."""
    return {row["key"]: {**row, "seconds": 0} for row in rows}


@pytest.mark.real  # the first run of a process takes torch seconds
def test_every_run_becomes_a_line_with_its_settings_and_its_numbers(tmp_path):
    out = tmp_path / "deep" / "rows.jsonl"
    assert sweep(out, runs(2, rounds=12)) == [(0, 2), (1, 2), (2, 2)]
    rows = read_rows(out)
    assert [row["settings"]["seed"] for row in rows] == [0, 1]
    assert [row["key"] for row in rows] == [key(settings) for settings in runs(2, rounds=12)]
    assert rows[0]["loss"] < 0.1
    assert rows[0]["attacker_weight"] == rows[0]["attacker_weight_late"] == 0
    assert len(rows[0]["curves"]["attacker_weight"]) == 12
    assert rows[0]["bytes_per_member_round"] > 0
    assert rows[0]["common_accuracy"] is None  # a task without classes


def test_what_is_on_file_is_not_computed_again(tmp_path):
    out = tmp_path / "rows.jsonl"
    sweep(out, runs(2))
    first = out.read_bytes()
    assert sweep(out, runs(3)) == [(2, 3), (3, 3)]
    assert out.read_bytes().startswith(first)
    assert len(read_rows(out)) == 3


def test_a_torn_last_line_is_dropped_and_its_run_computed_again(tmp_path):
    out, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    sweep(whole, runs(2))
    out.write_bytes(whole.read_bytes()[:-100])
    assert len(read_rows(out)) == 1
    sweep(out, runs(2))
    assert told(read_rows(out)) == told(read_rows(whole))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dear diary", "line 1 is no run"),
        (b"{]\n", "line 1 is no JSON"),
        (b'{"key": "a"}\n', "line 1 is no run"),
        (b'{"key": "a", "settings": {}}\n[1]\n', "line 2 is no run"),
        (ROW.replace(b"1.0", b'"much"') + b"\n", "line 1 is no run"),
        (ROW.replace(b"1.0", b"NaN") + b"\n", "line 1 is no JSON"),
        (b"[" * 100_000 + b"\n", "line 1 is no JSON"),
    ],
)
def test_a_file_that_is_no_sweep_s_is_left_as_it_is(tmp_path, content, message):
    out = tmp_path / "rows.jsonl"
    out.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        sweep(out, runs(1))
    assert out.read_bytes() == content


@pytest.mark.parametrize("kind", ["null", "full", "pipe"])
def test_a_device_or_a_pipe_is_no_file_for_rows(tmp_path, kind):
    out = tmp_path / "rows.jsonl"
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(f"/dev/{kind}")
    with pytest.raises(ConfigError, match=r"rows\.jsonl (is no regular file|can't be written \(\S+)"):
        sweep(out, runs(1))


def test_a_full_disk_ends_the_sweep_with_the_cure(tmp_path):
    out = tmp_path / "rows.jsonl"
    sweep(out, runs(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (out.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"can't be written .*make room and start the sweep again"):
            sweep(out, runs(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    sweep(out, runs(2))
    assert len(read_rows(out)) == 2


BROKEN_TASK = """
from tests.learning.example_task import task
from dataclasses import replace

def data(share):
    raise RuntimeError("no such table")

task = replace(task, data=data)
"""


def test_a_task_that_raises_anything_keeps_no_other_run_from_running(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN_TASK)
    wrong = dataclasses.replace(runs(1)[0], task=f"{tmp_path}/broken.py:task")
    [failed] = run_sweep([wrong, *runs(1)], tmp_path / "rows.jsonl", 1, lambda *_: None)
    assert re.search(r"RuntimeError: no such table \(.*broken\.py, line 6\)", str(failed))
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1


def test_a_file_in_no_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        sweep(tmp_path / "file" / "rows.jsonl", runs(1))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.real)])
def test_a_run_that_fails_says_which_and_keeps_no_other_from_running(tmp_path, processes):
    out, steps = tmp_path / "rows.jsonl", []
    one, wrong, *others = [*runs(1), *runs(1, sharing="magic"), *runs(3)[1:]]
    [failed] = run_sweep([one, wrong, *others], out, processes, lambda *step: steps.append(step))
    assert failed.settings == wrong
    assert "sharing=magic, seed=0: unknown sharing 'magic'" in str(failed)
    assert {row["settings"]["seed"] for row in read_rows(out)} == {0, 1, 2}
    assert steps == [(over, 4) for over in range(5)]
    with pytest.raises(NodeError, match=r"run with .*sharing=magic.*unknown sharing"):
        row_of(failed)
    assert [each.settings for each in run_sweep([one, wrong], out, 1, lambda *_: None)] == [wrong]


def test_the_key_is_of_what_decides_the_result():
    settings = SimulationSettings()
    assert key(settings) == key(dataclasses.replace(settings, data_dir=Path("elsewhere")))
    others = {key(dataclasses.replace(settings, **change)) for change in ({"seed": 8}, {"held_out": True}, {})}
    assert len(others) == 3


def test_seeds_become_a_mean_and_a_deviation():
    rows = [{"key": "a", "x": 1.0, "y": None}, {"key": "b", "x": 3.0, "y": None}]
    found = over_seeds(rows)
    assert found["mean"]["x"] == 2.0
    assert abs(found["std"]["x"] - 2**0.5) < 1e-12


SCRIPT = """
import sys
from pathlib import Path
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import run_sweep

if __name__ == "__main__":
    task, out = sys.argv[1:]
    runs = [SimulationSettings(task=task, members=2, rounds=8, seed=seed) for seed in range(200)]
    run_sweep(runs, Path(out), 2, lambda over, total: print(over, flush=True))
"""


@pytest.mark.real
@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_sweep_on_two_processes_that_is_ended_leaves_whole_rows_and_no_processes(tmp_path, end):
    out, script = tmp_path / "rows.jsonl", tmp_path / "sweep.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), TASK, str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != b"3":
            assert process.poll() is None
        process.send_signal(end)
        process.communicate(timeout=30)  # until all of them have closed their output
    assert in_session(process.pid) == []
    before, kept = out.read_bytes(), read_rows(out)
    assert len(kept) >= 3
    assert told(kept[:1]) == told([measure(runs(200, rounds=8)[kept[0]["settings"]["seed"]])])
    sweep(out, runs(5, rounds=8))
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert len({row["key"] for row in read_rows(out)}) == len(read_rows(out)) >= 5


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_sweep_with_the_cure():
    rows = in_processes(runs(50, rounds=8), 2)
    next(rows)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(ConfigError, match="start the sweep again"):
        list(rows)
    assert multiprocessing.active_children() == []


def in_session(leader):
    """Processes of that session that are still there, after ten seconds at most."""
    for _ in range(100):
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session_of(pid) == leader]
        if not left:
            return []
        time.sleep(0.1)
    return left


def session_of(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_two_sweeps_do_not_write_to_one_file(tmp_path):
    out = tmp_path / "rows.jsonl"

    def another(over, total):
        with pytest.raises(ConfigError, match="another sweep writes to"):
            sweep(out, runs(1))

    run_sweep(runs(1), out, 1, another)
    assert len(json.loads(out.read_text())["curves"]["common"]) == 1
