"""What an inventory may say: nothing in it is ever run, and every mistake is named with its line."""

import subprocess

import pytest

from tests.nodes import REPOSITORY

GOOD = "alice 192.0.2.1 22 fl-node /srv/fl/alice - --publish"


def fleet(script, *arguments, **environment):
    command = [REPOSITORY / "scripts" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **environment)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice 192.0.2.1 22 fl-node", "line 2: needs name, host, port, user, home and role"),
        ("../up 192.0.2.1 22 fl-node /srv/fl -", "line 2: name '../up'"),
        ("alice -oProxyCommand=id 22 fl-node /srv/fl -", "line 2: host '-oProxyCommand=id'"),
        ("alice 192.0.2.1;id 22 fl-node /srv/fl -", "line 2: host '192.0.2.1;id'"),
        ("alice 192.0.2.1 22x fl-node /srv/fl -", "line 2: port '22x'"),
        ("alice 192.0.2.1 65536 fl-node /srv/fl -", "line 2: port 65536 is larger than 65535"),
        ("alice 192.0.2.1 22 $(id) /srv/fl -", "line 2: user '$(id)'"),
        ("alice 192.0.2.1 22 fl-node srv/fl -", "line 2: home 'srv/fl'"),
        ("alice 192.0.2.1 22 fl-node / -", "line 2: home '/'"),
        ("alice 192.0.2.1 22 fl-node /srv/$(id) -", "line 2: home '/srv/$(id)'"),
        ("alice 192.0.2.1 22 fl-node /srv/it's -", "line 2: home '/srv/it's'"),
        ("alice 192.0.2.1 22 fl-node /srv/fl boss", "line 2: role 'boss'"),
        (f"{GOOD}\n{GOOD}", "line 3: there is a host called alice already"),
        ("# nobody", "names no host"),
    ],
)
def test_a_mistake_in_the_inventory_is_named_before_anything_happens(tmp_path, line, said):
    (tmp_path / "hosts").write_text(f"# name host port user home role\n{line}\n")
    for script, more in (("status.sh", ()), ("start.sh", ("--session", "https://example.org/session.toml"))):
        result = fleet(script, tmp_path / "hosts", *more)
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr


def test_options_and_files_are_checked(tmp_path):
    (tmp_path / "hosts").write_text(GOOD)
    for arguments, said in [
        ((), "which inventory?"),
        ((tmp_path / "nowhere",), "there is no inventory at"),
        ((tmp_path / "hosts", "--host", "bob"), "names no host called bob"),
        ((tmp_path / "hosts", "--timeout", "0"), "--timeout must be a number from 1 to 999999, not '0'"),
        ((tmp_path / "hosts", "--force"), "there is no option --force"),
        ((tmp_path / "hosts", "--ssh-config", tmp_path / "nowhere"), "cannot be read"),
    ]:
        result = fleet("shutdown.sh", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr
    missing = fleet("start.sh", tmp_path / "hosts", "--session", tmp_path / "session.toml")
    assert "there is no session file at" in missing.stderr
    assert "--wheelhouse DIR" in fleet("deploy.sh", "--help").stdout


def test_what_goes_to_a_host_is_quoted_value_by_value(tmp_path):
    """A stand-in for ssh gives the last argument to a shell, as an SSH server does."""
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\necho "$last" >> "$SAID"\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    home = f"{tmp_path}/alice"
    pwn = f"$(touch${{IFS}}{tmp_path}/pwned)"
    (tmp_path / "hosts").write_text(f"alice 192.0.2.1 22 fl-node {home} - --peers {pwn} '*' \"$HOME\" ;id it's")
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    result = fleet("status.sh", tmp_path / "hosts", env={"PATH": path, "SAID": f"{tmp_path}/said"})
    assert result.returncode == 1
    assert f"fl-node is not installed in {home}.venv: run scripts/deploy.sh" in result.stdout
    assert not (tmp_path / "pwned").exists()
    result = fleet("start.sh", tmp_path / "hosts", "--session", "bafy", env={"PATH": path, "SAID": f"{tmp_path}/said"})
    assert result.returncode == 1
    said = (tmp_path / "said").read_text().splitlines()[-1]
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {said}"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[3:5] == ["start", home]
    assert shown.stdout.splitlines()[-6:] == ["--peers", pwn, "'*'", '"$HOME"', ";id", "it's"]
    assert not (tmp_path / "pwned").exists()


def test_the_example_is_a_valid_inventory(tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "running: round 1"\n')
    ssh.chmod(0o755)
    result = fleet("status.sh", REPOSITORY / "scripts" / "inventory.example", env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["alice", "bob", "carol"]
