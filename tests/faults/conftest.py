import time
from pathlib import Path

import pytest

from tests.hosts import TOOLS, hosts

pytest.register_assert_rewrite("tests.faults.cluster")

from tests.faults.cluster import MEMBERS, Cluster  # noqa: E402 - its asserts explain themselves

FOUND: dict[str, str] = {}  # what each fault did, for the end of the run


def pytest_collection_modifyitems(config, items):
    """Only whoever asks for faults gets them: they take long, and much of the machine."""
    if "faults" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("faults")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter):
    if FOUND:
        terminalreporter.section("what was found, for docs/faults.md")
    for name, text in FOUND.items():
        terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture
def found(request):
    """Keeps what a test found: a line at the end of the run, for the table in docs/faults.md."""

    began = time.monotonic()

    def keep(text):
        FOUND[request.node.name.removeprefix("test_")] = f"{text} ({time.monotonic() - began:.0f} s)"

    return keep


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory):
    """Eight running members, for all faults of this run: each must leave them as it found them."""
    with hosts(*MEMBERS, "chain", "ipfs") as made:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), made)
        try:
            cluster.serve()
            cluster.build()
            yield cluster
        finally:
            cluster.remove()


@pytest.fixture
def cluster(shared_cluster):
    """The running members, on links that are whole; those that the test before ended are started again."""
    shared_cluster.revive()
    shared_cluster.progress(MEMBERS, 2)
    yield shared_cluster
    shared_cluster.made.heal()


@pytest.fixture
def fake_clock():
    """The environment of a program whose clock is an hour fast; its timers keep going right."""
    for folder in (TOOLS / "usr" / "lib", Path("/usr/lib")):
        for library in folder.glob("*/faketime/libfaketimeMT.so.1"):
            return {"LD_PRELOAD": str(library), "FAKETIME": "+3600s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    pytest.skip("needs libfaketime: scripts/fetch_test_tools.sh fetches it")
