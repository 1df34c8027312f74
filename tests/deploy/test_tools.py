"""How tools for tests are fetched: what cannot be had is said, and what fails though it could be had is a failure."""

import subprocess
from pathlib import Path

import pytest

from tests.nodes import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "fetch_test_tools.sh"
APT = """#!/bin/sh
shift
echo "$1" >>{log}
case $1 in
update) exit {update} ;;
download) grep -q "{downloads_after}" {log} && touch "$2_1_all.deb" ;;
esac
"""
UNPACK = '#!/bin/sh\ntouch "$3/unpacked-${2%%_*}"\n'

pytestmark = pytest.mark.skipif(Path("/usr/sbin/sshd").exists(), reason="has an SSH server: nothing to fetch")


def fetch(place, update, downloads_after):
    """Exit status and words of the script, with an apt-get whose downloads work once a line is in its log."""
    log = place / "log"
    log.touch()
    for name, text in (("apt-get", APT), ("dpkg-deb", UNPACK)):
        told = text.replace("{log}", str(log)).replace("{update}", str(update))
        (place / name).write_text(told.replace("{downloads_after}", downloads_after))
        (place / name).chmod(0o755)
    environment = {"PATH": f"{place}:/usr/bin:/bin"}
    command = ["sh", SCRIPT, place / "tools"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stderr


def test_where_no_server_answers_it_says_what_is_left_out(tmp_path):
    code, said = fetch(tmp_path, 100, "never")
    assert code == 3
    assert "no package server answers" in said
    assert "tests/deploy leaves out the tests on hosts" in said


def test_where_servers_answer_and_it_fails_twice_that_is_a_failure(tmp_path):
    code, said = fetch(tmp_path, 0, "never")
    assert code == 1
    assert "though the package servers answer" in said
    assert (tmp_path / "log").read_text().split() == ["download", "update", "download"]


def test_lists_that_are_too_old_are_fetched_again(tmp_path):
    assert fetch(tmp_path, 0, "update") == (0, "")
    unpacked = {path.name for path in (tmp_path / "tools").iterdir()}
    assert {"unpacked-openssh-server", "unpacked-libwrap0", "unpacked-libnsl2"} <= unpacked
