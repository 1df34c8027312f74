"""Real OpenSSH servers, one on each host in a network namespace, and a key that opens them."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import TOOLS, Hosts

LIBRARIES = (TOOLS / "usr/lib/x86_64-linux-gnu", TOOLS / "lib/x86_64-linux-gnu")
CONFIGURATION = """
ListenAddress 0.0.0.0
Port 2222
HostKey {place}/host_key
AuthorizedKeysFile {place}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH={path} PYTHONPATH={packages} OMP_NUM_THREADS=1 NO_PROXY=*
"""
CLIENT = """
Host *
  IdentityFile {place}/key
  UserKnownHostsFile {place}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""
PREPARE = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow
mount -t tmpfs none /run && mkdir /run/sshd
exec "$2" -D -e -f "$1/sshd_config"
"""


def find_sshd() -> str:
    found = shutil.which("sshd", path=f"{TOOLS}/usr/sbin:/usr/sbin:/usr/local/sbin")
    if found is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs an OpenSSH server and client: scripts/fetch_test_tools.sh fetches the server")
    return found


def prepare(place: Path, made: Hosts) -> Path:
    """Keys, accounts and configurations; returns the client's configuration."""
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    (place / "passwd").write_text(f"root:x:0:0:root:{place}:/bin/sh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n")
    (place / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:!:19000:0:99999:7:::\n")
    host_key = " ".join((place / "host_key.pub").read_text().split()[:2])
    (place / "known_hosts").write_text("".join(f"[{made.address(name)}]:2222 {host_key}\n" for name in made.names))
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    (place / "sshd_config").write_text(CONFIGURATION.format(place=place, path=path, packages=packages))
    (place / "ssh_config").write_text(CLIENT.format(place=place))
    return place / "ssh_config"


@contextlib.contextmanager
def ssh_servers(place: Path, made: Hosts, names: tuple[str, ...]) -> Iterator[Path]:
    """Servers on the named hosts at port 2222; gives the client's configuration."""
    sshd = find_sshd()
    configuration = prepare(place, made)
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, LIBRARIES))} if str(TOOLS) in sshd else None
    children = []
    try:
        for name in names:
            command = made.inside(name, "unshare", "-m", "sh", "-c", PREPARE, "sh", str(place), sshd)
            with (place / f"sshd-{name}.log").open("wb") as log:
                children.append(subprocess.Popen(command, stderr=log, stdout=log, env=environment))
        for name in names:
            deadline = time.monotonic() + 20
            while "Server listening" not in (place / f"sshd-{name}.log").read_text():
                assert time.monotonic() < deadline, (place / f"sshd-{name}.log").read_text()
                time.sleep(0.05)
        yield configuration
    finally:
        for child in children:
            child.kill()
            child.wait()
