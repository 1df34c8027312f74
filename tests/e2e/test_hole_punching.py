"""Real nodes behind two NATs, with a real relay and chain on the public side: they leave the relay, and finish."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.hosts import wait_until
from tests.network.behind_nats import four_namespaces
from tests.nodes import PASSPHRASE, REPOSITORY, TASK, NodeProcess, make_home, running

pytestmark = pytest.mark.slow

PUBLIC = "198.51.100.3"
ENVIRONMENT = {**os.environ, "FL_NODE_PASSPHRASE": PASSPHRASE}


def inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace]


@contextmanager
def process(namespace: str, log: Path, *module_and_words: str):
    """A Python module that runs in a namespace; what it says is in `log`."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*inside(namespace), sys.executable, "-m", *module_and_words],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=ENVIRONMENT,
        ) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()


def fl_node(namespace: str, *words: object) -> None:
    command = [*inside(namespace), sys.executable, "-m", "node", *map(str, words)]
    subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, check=True, capture_output=True, timeout=120)


def says(log: Path, pattern: str, seconds: float = 120) -> str:
    return wait_until(lambda: re.search(pattern, log.read_text()), seconds).group()


def link(status: dict) -> str | None:
    """How the other member is connected."""
    return next((peer["link"] for peer in status.get("peers", []) if peer["member"] is not None), None)


def test_nodes_behind_nats_leave_the_relay_and_finish(tmp_path):
    homes = [make_home(tmp_path / name) for name in ("a", "b")]
    tracker, session = tmp_path / "t", tmp_path / "session.toml"
    logs = {name: tmp_path / f"{name}.log" for name in ("network", "chain", "tracker")}
    with four_namespaces() as (left, right, public, between), ExitStack() as stack:
        start = stack.enter_context
        network = start(process(between, logs["network"], "tests.network.nat", "cone", left, right, public))
        says(logs["network"], "ready")
        start(process(public, logs["chain"], "node", "devnet", "--host", PUBLIC, "--block-time", "0.5"))
        rpc = says(logs["chain"], rf"http://{PUBLIC}:\d+")
        fl_node(public, "init", "--home", tracker)
        listen = ("--listen", f"/ip4/{PUBLIC}/tcp/4010")
        start(process(public, logs["tracker"], "node", "tracker", "--home", str(tracker), *listen, "--relay"))
        relay = says(logs["tracker"], rf"/ip4/{PUBLIC}/tcp/4010/p2p/\w+")
        wishes = ("--task", f"{TASK}:task", "--rounds", 4, "--members", 2, "--quorum", 2, "--rpc", rpc)
        fl_node(public, "session", "create", *wishes, "--home", homes[0].path, "--out", session)
        ways = ("--no-mdns", "--tracker", relay, "--relay", relay, "--hole-punching", "--linger", "300")
        nodes = [
            NodeProcess(home, session, *ways, "--listen", f"/ip4/{address}/tcp/4001", inside=inside(where))
            for home, address, where in zip(homes, ("10.1.0.2", "10.2.0.2"), (left, right), strict=True)
        ]
        start(running(nodes))
        for node in nodes:
            node.wait_for(lambda status: link(status) == "direct", 120)
        assert any("punched a hole to peer" in node.log.read_text() for node in nodes)
        for node in nodes:
            status, outcome = node.end(120)
            assert (status, outcome["finished_round"], outcome["records_pending"]) == (0, 4, 0)
        network.stdin.write(b"\n")
        network.stdin.flush()
        assert int(says(logs["network"], r"(?<=ready\n)\d+")) > 0  # bytes that went from NAT to NAT
