import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: more threads only wait for each other, above all here

with warnings.catch_warnings():  # libraries that warn when they are imported
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401
    import web3  # noqa: F401

from ledger import Devnet, DevnetOptions
from node.agreement import OpenSession
from node.home import Home
from tests.nodes import make_home, make_session, running, start_all


@pytest.fixture(scope="session")
def chain():
    """A real Anvil on which gas is free."""
    with Devnet(DevnetOptions(block_time=0.5, free_gas=True)) as devnet:
        yield devnet


@dataclass(frozen=True)
class FinishedRun:
    """Three real nodes that went through four rounds, and ended."""

    chain: Devnet
    opened: OpenSession
    homes: list[Home]
    session_file: Path
    answers: list[tuple[int, dict]]


@pytest.fixture(scope="session")
def finished_run(chain, tmp_path_factory):
    """A session that is over, for everybody who only looks at what it left behind."""
    place = tmp_path_factory.mktemp("finished")
    homes = [make_home(place / name) for name in ("alice", "bob", "carol")]
    opened = make_session(homes[0], chain, place / "session.toml", snapshot_every=2, replicas=1)
    nodes = start_all(homes, place / "session.toml")
    with running(nodes):
        answers = [node.end() for node in nodes]
    return FinishedRun(chain, opened, homes, place / "session.toml", answers)
