"""Several hosts on one machine: network namespaces whose only wire is a switch in user space (tests/switch.py).

This kernel has no netem, so delay, loss, rate and partitions are the switch's work: each host's veth ends in the
namespace of the switch, which carries every Ethernet frame from one to the other, or late, or not at all.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TOOLS = REPOSITORY / "cache" / "tools"
NEEDED = "needs root and network namespaces (ip netns add)"
_numbers = itertools.count()


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], stderr=subprocess.DEVNULL, check=False).returncode == 0


class Hosts:
    """Hosts by name, with addresses 10.77.0.1 and on, and the wire between them."""

    def __init__(self, names: Sequence[str], prefix: str) -> None:
        self.names, self._prefix = tuple(names), prefix
        self._switch: subprocess.Popen | None = None

    def address(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def namespace(self, name: str) -> str:
        return f"{self._prefix}{self.names.index(name)}"

    def inside(self, name: str, *command: str) -> list[str]:
        """A command that runs on a host."""
        return ["ip", "netns", "exec", self.namespace(name), *map(str, command)]

    def build(self) -> None:
        middle = f"{self._prefix}s"
        assert ip("netns", "add", middle)
        for index, name in enumerate(self.names):
            where, near = self.namespace(name), "eth0"
            assert ip("netns", "add", where)
            assert ip("link", "add", near, "netns", where, "type", "veth", "peer", "name", f"p{index}", "netns", middle)
            assert ip("-n", where, "address", "add", f"{self.address(name)}/24", "dev", near)
            assert ip("-n", where, "link", "set", "lo", "up")
            assert ip("-n", where, "link", "set", near, "up")
            assert ip("-n", middle, "link", "set", f"p{index}", "up")
            plain_frames = [sys.executable, "-m", "tests.switch", "--plain", near]
            subprocess.run(self.inside(name, *plain_frames), check=True, cwd=REPOSITORY)
        command = ["ip", "netns", "exec", middle, sys.executable, "-m", "tests.switch", str(len(self.names))]
        self._switch = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=REPOSITORY
        )
        assert self._switch.stdout.readline() == "ready\n"

    def remove(self) -> None:
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
            self._switch.stdin.close()
            self._switch.stdout.close()
        for name in self.names:
            ip("netns", "del", self.namespace(name))
        ip("netns", "del", f"{self._prefix}s")

    def wire(self, sources: Sequence[str], targets: Sequence[str], **conditions: float) -> None:
        """What happens to frames from `sources` to `targets`: `loss` (0 to 1), `delay` (s), `rate` (bytes/s)."""
        for source, target in itertools.product(sources, targets):
            if source != target:
                order = {"from": self.names.index(source), "to": self.names.index(target), **conditions}
                self._say(order)

    def link(self, name: str, **conditions: float) -> None:
        """What happens to all that a host sends, and to all that it gets: as `wire`, with one rate for all of it."""
        self._say({"host": self.names.index(name), **conditions})

    def heal(self) -> None:
        """Every wire as it was at first."""
        self._say({"heal": True})

    def counts(self) -> dict:
        """Frames carried and lost since the start."""
        return self._say({"counts": True})

    def link_counts(self, name: str) -> dict:
        """What a host's link with a rate did since it has it, `up` and `down`: `bytes`, frames `lost`, `busy_s`."""
        return self._say({"link": self.names.index(name)})

    def _say(self, order: dict) -> dict:
        self._switch.stdin.write(json.dumps(order) + "\n")
        return json.loads(self._switch.stdout.readline())


def hosts_are_possible() -> bool:
    """Whether this process may make network namespaces."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"fl{os.getpid() % 100000}x"
    return ip("netns", "add", probe) and ip("netns", "del", probe)


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Namespaces that are gone afterwards; skips the test without the privilege."""
    if not hosts_are_possible():
        pytest.skip(NEEDED)
    made = Hosts(names, f"fl{os.getpid() % 100000}{'abcdefghijklmnopqr'[next(_numbers) % 18]}")
    try:
        made.build()
        yield made
    finally:
        made.remove()


def wait_until(what, seconds: float, step: float = 0.1):
    """The first true value of `what()`; AssertionError if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(step)
    raise AssertionError(f"not within {seconds} s")
