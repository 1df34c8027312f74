"""The systemd unit is one that systemd accepts, hardened, and names options that exist."""

import re
import shutil
import subprocess

import pytest
from click import Context

from node.cli.app import cli
from tests.nodes import REPOSITORY

UNIT = REPOSITORY / "scripts" / "systemd" / "fl-node@.service"


@pytest.mark.real
def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    here = tmp_path / UNIT.name  # with a program that exists here
    here.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verified = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    broken = tmp_path / "broken@.service"
    broken.write_text(here.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    assert subprocess.run(["systemd-analyze", "verify", broken], capture_output=True, check=False, text=True).stderr


def test_the_variables_that_the_unit_names_are_those_of_start():
    start = cli.get_command(Context(cli), "start")
    known = {option.envvar for option in start.params if option.envvar}
    named = set(re.findall(r"FL_NODE_[A-Z_]+", UNIT.read_text()))
    assert len(named) >= 4
    assert named <= known
