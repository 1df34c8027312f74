"""`fl-node simulate` from the outside, on a task that takes milliseconds."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from node.cli.simulate import simulate
from node.cli.unused_options import require_simulated_use
from node.simulation.results import FIELDS
from scripts.experiments.cells import DATASETS, ROWS, all_runs
from scripts.experiments.commands import command

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"

pytestmark = pytest.mark.real


def run(*arguments):
    return CliRunner().invoke(cli, ["simulate", *map(str, arguments)])


def quick(*arguments):
    return run("--task", TASK, "--rounds", 2, "--members", 3, *arguments)


def last_line(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def table_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_single_run_answers_exactly_the_fields_of_a_run():
    found = last_line(quick("--json"))
    assert tuple(found) == FIELDS
    assert found["attacker_weight"] == 0
    assert found["bytes_per_member_round"] > 0


def test_several_seeds_give_mean_and_deviation():
    found = last_line(quick("--seed", 1, "--seed", 2, "--seed", 1, "--attack", "ipm", "--attackers", 1, "--json"))
    assert [line["seed"] for line in found["runs"]] == [1, 2]
    weights = [line["attacker_weight"] for line in found["runs"]]
    assert found["mean"]["attacker_weight"] == sum(weights) / 2
    assert found["std"]["common_accuracy"] is None


def test_the_rounds_as_csv_in_the_place_of_the_table(tmp_path):
    lines = table_of(quick("--csv", "-").stdout)
    assert [line["round"] for line in lines] == ["1", "2"]
    assert float(lines[1]["loss"]) < float(lines[0]["loss"])
    quick("--csv", tmp_path / "rounds.csv")
    assert table_of((tmp_path / "rounds.csv").read_text()) == lines


def test_a_sweep_answers_where_its_rows_are_and_goes_on_from_them(tmp_path):
    sweep, out = tmp_path / "sweep.toml", tmp_path / "rows.jsonl"
    base = f'[base]\ntask = "{TASK}"\nmembers = 2\nrounds = 1\n'
    sweep.write_text(f'{base}[grid]\nsharing = ["fixed", "none"]\nseed = [1, 2]\n')
    found = last_line(run("--sweep", sweep, "--out", out, "--json"))
    assert found["runs"] == len(out.read_text().splitlines()) == 4
    first = out.read_bytes()
    table = run("--sweep", sweep, "--out", out, "--csv", tmp_path / "runs.csv")
    assert out.read_bytes() == first
    assert "sharing" in table.stdout
    assert "none" in table.stdout
    assert [line["seed"] for line in table_of((tmp_path / "runs.csv").read_text())] == ["1", "2", "1", "2"]


def test_a_run_of_a_sweep_that_fails_is_named_and_the_others_are_told_in_the_order_of_the_file(tmp_path):
    sweep, out, base = tmp_path / "sweep.toml", tmp_path / "rows.jsonl", f'task = "{TASK}"\nmembers = 2\nrounds = 2\n'
    rates = "".join(f"[[runs]]\nlearning_rate = {rate}\n" for rate in ("0.1", "900.0", "0.05"))
    sweep.write_text(f"[base]\n{base}[[runs]]\nlearning_rate = 0.05\n")
    run("--sweep", sweep, "--out", out)
    sweep.write_text(f"[base]\n{base}{rates}")
    for _ in range(2):
        result = run("--sweep", sweep, "--out", out, "--csv", tmp_path / "runs.csv", "--json")
        assert result.exit_code == 2, result.output
        [failed] = json.loads(result.stdout.strip().splitlines()[-1])["failed"]
        assert "learning_rate=900.0: member 0 diverged in round" in failed
        assert [line["learning_rate"] for line in table_of((tmp_path / "runs.csv").read_text())] == ["0.1", "0.05"]
    text = run("--sweep", sweep, "--out", out, "--csv", "-")
    assert text.exit_code == 2
    assert [line["learning_rate"] for line in table_of(text.stdout)] == ["0.1", "0.05"]
    heading, reason = text.stderr.strip().splitlines()
    assert "1 runs failed" in heading
    assert reason == failed


def test_without_a_terminal_nothing_but_lines_is_told_on_standard_error(tmp_path):
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(f'[base]\ntask = "{TASK}"\nmembers = 2\nrounds = 1\n')
    for result in (quick(), quick("--seed", 1, "--seed", 2), run("--sweep", sweep, "--out", tmp_path / "rows.jsonl")):
        assert result.exit_code == 0, result.output
        assert result.stderr == ""


@pytest.mark.parametrize("pair", [("--out", "--csv"), ("--sweep", "--csv"), ("--sweep", "--out")])
def test_files_of_a_sweep_overwrite_none_of_the_others(tmp_path, pair):
    sweep, same = tmp_path / "sweep.toml", tmp_path / "rows.jsonl"
    content = f'[base]\ntask = "{TASK}"\nmembers = 2\nrounds = 1\n'
    sweep.write_text(content)
    files = {"--sweep": sweep, **dict.fromkeys(pair, same)}
    if "--sweep" in pair:
        same.write_text(content)
    result = run(*(part for option in files.items() for part in option))
    assert result.exit_code == 2, result.output
    assert f"{pair[0]} and {pair[1]} are the same file" in result.stderr
    assert not same.exists() or same.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "none.toml"), "none.toml can't be read"),
        (("--sweep", "none.toml", "--members", 3), "--members beside --sweep"),
        (("--split", "skewed:x"), "skewed:x"),
        (("--topology", "star"), "star"),
        (("--task", TASK, "--rounds", 1, "--csv", "/nowhere/rounds.csv"), "give another --csv"),
    ],
)
def test_what_can_not_be_is_one_line_with_the_cure(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "rows.jsonl"), "--out is for the rows of a sweep: add --sweep"),
        (("--dataset", "fashion"), "--dataset says what --task"),
        (("--cohort", 2, "--topology", "ring"), "--cohort is for --topology random, ring has"),
        (("--attack", "ipm"), "--attack ipm needs somebody who does it: add --attackers"),
        (("--attackers-absent",), "--attackers-absent needs attackers who could be there"),
        (("--sharing", "fixed", "--prior-strength", 1), "--prior-strength is for learned rows, not fixed"),
        (("--sharing", "fixed", "--objective", "personal"), "--objective is for learned rows, not fixed"),
        (("--sharing", "l2c", "--objective", "personal"), "--objective is for learned rows, not l2c"),
        (("--sharing", "none", "--topology", "ring"), "--topology is for members who share"),
        (("--ray", "local"), "--ray is for several runs"),
        (("--ray", "local", "--processes", 2, "--seed", 1, "--seed", 2), "--processes is for this machine alone"),
        (("--processes", 2), "--processes is for several runs"),
        (("--csv", "-", "--json"), "--csv - beside --json: both are standard output"),
    ],
)
def test_what_a_run_would_take_no_notice_of_is_refused(arguments, message):
    result = quick(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize("arguments", [("--objective", "common"), ("--topology", "random"), ("--cohort", 2)])
def test_what_the_experiments_print_for_every_run_is_not_refused_without_sharing(arguments):
    last_line(quick("--sharing", "none", *arguments, "--json"))


def test_no_command_that_the_experiments_print_is_refused():
    printed = {command(cell) for cell in all_runs(ROWS, DATASETS, seeds=(1,))}
    assert len(printed) > 100
    for line in printed:
        with simulate.make_context("simulate", line.split()[2:]) as context:
            require_simulated_use(context.params)


def configured(tmp_path, settings, *arguments):
    path = tmp_path / "settings.toml"
    path.write_text(settings)
    return CliRunner().invoke(cli, ["--config", str(path), "simulate", *map(str, arguments)])


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(f'[base]\ntask = "{TASK}"\nmembers = 2\nrounds = 1\n')
    return ("--sweep", path, "--out", tmp_path / "rows.jsonl")


def test_settings_of_a_machine_that_a_sweep_takes_no_notice_of_are_named(tmp_path, sweep):
    settings = "[simulate]\nmembers = 3\nbatch-size = 8\nprocesses = 2\n"
    result = configured(tmp_path, settings, *sweep, "--json")
    assert last_line(result)["runs"] == 1
    [line] = result.stderr.splitlines()
    assert "--members, --batch-size of the settings file" in line
    assert configured(tmp_path, "[simulate]\nprocesses = 2\n", *sweep).stderr == ""


def test_a_sweep_is_not_computed_in_two_places(sweep):
    result = run(*sweep, "--ray", "local", "--processes", 2)
    assert result.exit_code == 2, result.output
    assert "--processes is for this machine alone" in result.stderr


def test_settings_of_a_machine_for_several_runs_are_not_in_the_way_of_a_single_one(tmp_path):
    settings = f'[simulate]\ntask = "{TASK}"\nrounds = 1\nprocesses = 2\nray = "local"\nout = "rows.jsonl"\n'
    assert tuple(last_line(configured(tmp_path, settings, "--json"))) == FIELDS
    result = configured(tmp_path, settings, "--processes", 2)
    assert result.exit_code == 2
    assert "--processes is for several runs" in result.stderr


def test_nobody_may_attack_where_somebody_says_so():
    assert last_line(quick("--attack", "ipm", "--attackers", 0, "--json"))["attacker_weight"] == 0


def test_a_table_that_can_not_be_written_is_known_before_the_first_round(tmp_path, monkeypatch):
    monkeypatch.setattr("node.cli.simulate.run_simulation", lambda settings: pytest.fail("the run began"))
    result = quick("--csv", tmp_path / "no folder" / "rounds.csv")
    assert result.exit_code == 2, result.output
    assert "give another --csv" in result.stderr


@pytest.mark.parametrize("seeds", [("1",), ("1", "2")])
def test_a_task_that_raises_is_one_line_with_its_place(tmp_path, seeds):
    (tmp_path / "broken.py").write_text(
        "from dataclasses import replace\nfrom tests.learning.example_task import task as sound\n"
        "def data(share):\n    raise RuntimeError('no such table')\ntask = replace(sound, data=data)\n"
    )
    result = run(
        "--task", f"{tmp_path}/broken.py:task", "--json", *(word for seed in seeds for word in ("--seed", seed))
    )
    assert result.exit_code == 2
    assert re.search(r"RuntimeError: no such table \(.*broken\.py, line 4\)", json.loads(result.stdout)["error"])
