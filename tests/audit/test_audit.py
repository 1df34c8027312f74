"""A clean run audits clean; each thing that can be wrong is found and located."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from tests.nodes import REPOSITORY, replayable

pytestmark = pytest.mark.real


def audit(run, *arguments):
    fixed = ["audit", "--json", "--session", str(run.session_file), "--rpc", run.chain.url]
    result = CliRunner().invoke(cli, [*fixed, *map(str, arguments)])
    return result.exit_code, json.loads(result.stdout.strip().splitlines()[-1])


def test_a_clean_run_is_clean(finished_run):
    code, report = audit(finished_run)
    assert code == 0
    assert report["clean"] is True
    assert report["first_fault"] is None
    assert report["steps_total"] == 12
    assert report["steps_replayed"] == replayable(finished_run.opened)
    assert 1 <= report["steps_replayed"] <= 6  # rounds 2 and 4 have snapshots
    assert report["records"] == 15  # 12 commits and 3 closings
    assert report["gaps"] == []


def test_a_machine_with_another_processor_comes_to_the_same_bits(finished_run):
    """Without vector instructions, as on the oldest processor that torch knows; the nodes ran with what there is."""
    plain = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    }
    command = [sys.executable, "-m", "node", "audit", "--json", "--session", finished_run.session_file]
    answer = subprocess.run([*command, "--rpc", finished_run.chain.url], env=plain, cwd=REPOSITORY, capture_output=True)
    report = json.loads(answer.stdout)
    assert (answer.returncode, report["clean"]) == (0, True)
    assert report["steps_replayed"] == replayable(finished_run.opened)


def test_a_range_of_rounds_can_be_audited(finished_run):
    code, report = audit(finished_run, "--from", 3, "--to", 4)
    assert code == 0
    assert report["steps_total"] == 6
    assert 1 <= report["steps_replayed"] <= 3  # round 4


def test_without_snapshots_a_session_could_not_be_checked(finished_run, tmp_path):
    (tmp_path / "empty" / "ipfs").mkdir(parents=True)
    code, report = audit(finished_run, "--ipfs", tmp_path / "empty")
    assert code == 2
    assert report["first_fault"] is None
    assert report["clean"] is False
    assert (report["steps_total"], report["steps_replayed"]) == (12, 0)


def test_a_place_without_snapshots_is_a_clear_error(finished_run, tmp_path):
    code, report = audit(finished_run, "--ipfs", tmp_path)
    assert code == 2
    assert "neither a node's home" in report["error"]


def test_a_mistake_of_the_program_convicts_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr("node.cli.ledger_commands.audit_session", None)
    result = CliRunner().invoke(cli, ["audit", "--json", "--session", str(tmp_path)])
    assert result.exit_code == 2
    assert "fault of this program" in json.loads(result.stdout)["error"]


def test_rounds_beyond_any_ledger_are_refused(tmp_path):
    result = CliRunner().invoke(cli, ["audit", "--session", str(tmp_path), "--to", str(2**63)])
    assert result.exit_code == 2
