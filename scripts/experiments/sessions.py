"""Sessions of real nodes, gossip and coordinated, some of whose workers fail or are slow: what came of each round.

A chain, processes, libp2p; the same shares of the data as in the simulation. Knows no tables.
"""

import dataclasses
import hashlib
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from ledger import Devnet, DevnetOptions
from node.agreement import create_session
from node.demo import DemoNode, DemoSettings, end_all, last_words, make_home, start_node, wait_for_address
from node.errors import NodeError
from node.wishes import CoordinationWishes, Wishes
from scripts.experiments.nodes import join
from scripts.experiments.samples import Row

PATIENCE_S = 900.0
START_S = 300.0  # for the first node to listen, on a machine that has other things to do


@dataclass(frozen=True, slots=True)
class Case:
    """One session. The workers' shares, and who fails, are those of the simulation."""

    topology: str
    workers: int = 6  # members that train
    rounds: int = 10
    split: str = "iid"
    quorum: int = 3
    seed: int = 1
    failed: int = 0  # killed for good, those with the largest numbers
    fails_after: int = 3  # rounds
    throttle_s: tuple[float, ...] = ()  # that a step takes at least, by worker
    balance: bool = True
    task: str = "mnist-softmax"

    @property
    def ends_below(self) -> bool:
        """Whether too few workers are left for another round."""
        return self.failed > self.workers - self.quorum

    @property
    def key(self) -> str:
        """What its row is known by."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"sessions-{hashlib.sha256(canonical.encode()).hexdigest()[:32]}"


def run_case(case: Case, data_dir: Path | None) -> Row:
    """Real nodes from the first to the last round. NodeError if one of them fails that is not to."""
    started = time.monotonic()
    coordinated = case.topology == "coordinated"
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        settings = DemoSettings(out=Path(place), data_dir=data_dir)
        chain = stack.enter_context(Devnet(DevnetOptions(block_time=1.0, free_gas=True)))
        passphrase = secrets.token_urlsafe(16)
        nodes = [
            make_home(settings.out / f"node{i}", f"node{i}", passphrase) for i in range(case.workers + coordinated)
        ]
        content, session = trio.run(create_session, nodes[0].home, passphrase, wishes(case, chain.url))
        (settings.out / "session.toml").write_bytes(content)
        for node in nodes:
            join(node, session, passphrase)
        stack.callback(end_all, nodes)
        for index, node in enumerate(nodes):
            extra = ["--task", case.task, "--quorum-timeout", str(PATIENCE_S)]
            if case.throttle_s and index:
                extra += ["--throttle", str(case.throttle_s[index - 1])]
            node.process = start_node(settings, node, nodes[0] if index else None, passphrase, extra)
            if not index:
                wait_for_address(node, START_S)
        if case.failed:
            kill_some(nodes, case)
        if case.ends_below:
            stop_below(nodes[0])
        watched = nodes[:1] if coordinated else nodes
        wait_for_end(watched)
        require_end(watched, case)
        rounds = rounds_of([node.status() for node in watched])
    return {
        "key": case.key,
        "settings": dataclasses.asdict(case),
        "rounds": rounds,
        "seconds": time.monotonic() - started,
    }


def wishes(case: Case, rpc: str) -> Wishes:
    """The session that a case needs."""
    return Wishes(
        task=case.task,
        rounds=case.rounds,
        rpc=rpc,
        name="experiment",
        members=case.workers,
        split=case.split,
        cohort=max(1, case.workers - 1),
        quorum=case.quorum if case.topology == "coordinated" else case.workers,
        seed=case.seed,
        snapshot_every=1000,
        replicas=1,
        round_deadline_s=120.0,
        topology=case.topology,
        coordination=CoordinationWishes(balance=case.balance) if case.topology == "coordinated" else None,
    )


def kill_some(nodes: Sequence[DemoNode], case: Case) -> None:
    """Kills the last workers once so many rounds are over."""
    deadline = time.monotonic() + PATIENCE_S
    while len(nodes[0].status().get("finished_rounds", [])) < case.fails_after:
        if time.monotonic() > deadline or nodes[0].process is None or nodes[0].process.poll() is not None:
            raise NodeError(f"the coordinator did not come to round {case.fails_after}: {last_words(nodes[0])}")
        time.sleep(0.05)
    for node in nodes[len(nodes) - case.failed :]:
        assert node.process is not None
        node.process.kill()


def stop_below(coordinator: DemoNode) -> None:
    """Stops a coordinator once it says that it is below its quorum."""
    deadline = time.monotonic() + PATIENCE_S
    while "below the quorum" not in str(coordinator.status().get("state")):
        if time.monotonic() > deadline or coordinator.process is None or coordinator.process.poll() is not None:
            raise NodeError(f"{coordinator.name} never said that it is below its quorum: {last_words(coordinator)}")
        time.sleep(0.1)
    coordinator.process.terminate()


def wait_for_end(nodes: Sequence[DemoNode]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(node.process is not None and node.process.poll() is None for node in nodes):
        if time.monotonic() > deadline:
            raise NodeError(f"not finished within {PATIENCE_S:g} s: {nodes[0].status().get('state')}")
        time.sleep(0.25)


def require_end(nodes: Sequence[DemoNode], case: Case) -> None:
    """Everybody ends well; without a quorum before the last round, with one after it."""
    for node in nodes:
        assert node.process is not None
        ended, finished = node.process.returncode, len(node.status().get("finished_rounds", []))
        if ended or (finished < case.rounds) != case.ends_below:
            raise NodeError(f"{node.name} ended with status {ended} after {finished} rounds: {last_words(node)}")


def rounds_of(statuses: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each round that all of these members finished: mean accuracy, mean seconds, and how many updates were mixed."""
    found = []
    for seen in zip(*(status["finished_rounds"] for status in statuses), strict=False):
        seconds = [entry["train_s"] + entry["commit_s"] + entry["gather_s"] + entry["mix_s"] for entry in seen]
        found.append(
            {
                "round": seen[0]["round"],
                "accuracy": statistics.fmean(entry["metrics"]["test_accuracy"] for entry in seen),
                "seconds": statistics.fmean(seconds),
                "updates": len(seen[0].get("work") or []),
            }
        )
    return found
