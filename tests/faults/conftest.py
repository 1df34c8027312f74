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
    for name, text in FOUND.items():
        terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture
def found(request):
    """Keeps what a test found, in a line for docs/faults.md."""

    def keep(text):
        FOUND[request.node.name.removeprefix("test_")] = text

    return keep


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory):
    """Eight running members, for all faults of this run: each must leave them as it found them."""
    with hosts(*MEMBERS, "chain", "ipfs") as made:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), made)
        try:
            cluster.build()
            cluster.progress(MEMBERS, 2)
            yield cluster
        finally:
            cluster.remove()


@pytest.fixture
def cluster(shared_cluster):
    """The running members, healed and running again after whatever the test did."""
    yield shared_cluster
    shared_cluster.made.heal()
    for name, node in shared_cluster.nodes.items():
        if node.process.poll() is not None:
            shared_cluster.start(name)


@pytest.fixture
def fake_clock():
    """The environment of a program whose clock is an hour fast; its timers keep going right."""
    for folder in (TOOLS / "usr" / "lib", Path("/usr/lib")):
        for library in folder.glob("*/faketime/libfaketimeMT.so.1"):
            return {"LD_PRELOAD": str(library), "FAKETIME": "+3600s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    pytest.skip("needs libfaketime: scripts/fetch_test_tools.sh fetches it")
