"""Four machines of a kind for tests of NATs: two that are to be behind NATs, a public one, and the network's own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NEEDED = "needs the privilege to make network namespaces (ip netns add) and TUN devices (/dev/net/tun)"


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@contextmanager
def four_namespaces() -> Iterator[list[str]]:
    """Names of empty network namespaces, for `tests.network.nat`; skips the test without the privilege."""
    names = [f"fl{os.getpid()}{letter}" for letter in "lrmn"]
    if shutil.which("ip") is None or not os.access("/dev/net/tun", os.W_OK) or not ip("netns", "add", names[0]):
        pytest.skip(NEEDED)
    try:
        assert all(ip("netns", "add", name) for name in names[1:])
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)
