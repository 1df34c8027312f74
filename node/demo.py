"""Several real nodes on one machine: a chain, a session, a process per member, one live table, one report."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from ledger import Devnet, DevnetOptions, History, create_keystore
from node.agreement import OpenSession, create_session
from node.audit.run import AuditSettings, audit_opened
from node.dashboard.plots import plot_accuracy, plot_trust
from node.errors import ConfigError, NodeError
from node.home import KEEP_ROUNDS, Home, read_status
from node.messages import WEIGHT_SUM
from node.network.identity import create_identity
from node.wishes import Wishes

MARK = ".fl-node-demo"  # only a directory with this file in it is ever cleared
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
ENDED_S = 30.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the demo runs."""

    out: Path
    task: str = "mnist-softmax"
    members: int = 4
    rounds: int = 10
    split: str = "iid"
    objective: str = "common"
    snapshot_every: int = 1
    seed: int = 7
    data_dir: Path | None = None
    timeout_s: float = 600.0
    round_deadline_s: float = 30.0
    experiment: bool = False  # whether members may misbehave
    keep: Callable[[str], None] | None = None  # called with the chain's URL before the chain ends


@dataclass
class DemoNode:
    """A member's process and home."""

    name: str
    home: Home
    process: "subprocess.Popen[bytes] | None" = None

    def status(self) -> dict[str, Any]:
        """What the node last said; only its name before it said anything."""
        return {"member": self.name, **read_status(self.home)}


@dataclass(frozen=True, slots=True)
class Finished:
    """A demo that is over: its report, and what went wrong, if anything."""

    report: Mapping[str, Any]
    faults: tuple[str, ...]


def run_demo(settings: DemoSettings, watch: Callable[[Sequence[Mapping[str, Any]]], None]) -> Finished:
    """Runs the whole demo; `watch` gets the nodes' statuses a few times a second.

    Raises NodeError or LedgerError when it cannot even start.
    """
    started = time.monotonic()
    with clean_directory(settings.out), ExitStack() as stack:
        chain = stack.enter_context(Devnet(DevnetOptions(block_time=1.0, free_gas=True)))
        passphrase = secrets.token_urlsafe(16)
        nodes = [make_home(settings.out / name, name, passphrase) for name in names(settings.members)]
        opened = make_session(settings, nodes[0], passphrase, chain.url)
        stack.callback(end_all, nodes)
        for index, node in enumerate(nodes):
            node.process = start_node(settings, node, nodes[0] if index else None, passphrase)
        faults = follow(nodes, settings, watch)
        report = build_report(settings, opened, nodes, time.monotonic() - started)
        audited = AuditSettings(settings.out / "session.toml", chain.url)
        report["audit"] = trio.run(audit_opened, opened, audited, lambda _line: None).json()
        faults += check_report(settings, report)
        (settings.out / "report.json").write_text(json.dumps(report, indent=1))
        draw(settings.out, nodes, report)
        if settings.keep is not None:
            settings.keep(chain.url)
    return Finished(report, tuple(faults))


def names(count: int) -> list[str]:
    """So many names for members."""
    return [NAMES[i] if i < len(NAMES) else f"member{i}" for i in range(count)]


@contextmanager
def clean_directory(path: Path) -> Iterator[None]:
    """An empty directory; what an earlier demo left there goes. ConfigError if it holds anything else."""
    if path.exists() and any(path.iterdir()):
        if not (path / MARK).exists():
            raise ConfigError(f"{path} is not empty and no earlier demo's: choose another --out")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / MARK).touch()
    yield


def make_home(path: Path, name: str, passphrase: str) -> DemoNode:
    """A new node's home with its keys."""
    path.mkdir(mode=0o700)
    home = Home(path)
    create_keystore(home.keystore, passphrase)
    create_identity(home.identity)
    return DemoNode(name, home)


def make_session(settings: DemoSettings, creator: DemoNode, passphrase: str, rpc: str) -> OpenSession:
    """The demo's session, created by the first node; its file is `session.toml`."""
    wishes = Wishes(
        task=settings.task,
        rounds=settings.rounds,
        rpc=rpc,
        name="demo",
        members=settings.members,
        quorum=settings.members,
        split=settings.split,
        objective=settings.objective,
        seed=settings.seed,
        snapshot_every=settings.snapshot_every,
        cohort=max(1, settings.members - 1),
        round_deadline_s=settings.round_deadline_s,
        experiment=settings.experiment,
    )
    content, opened = trio.run(create_session, creator.home, passphrase, wishes)
    (settings.out / "session.toml").write_bytes(content)
    return opened


def start_node(
    settings: DemoSettings, node: DemoNode, first: DemoNode | None, passphrase: str, extra: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """The process of a node, with `extra` options; all but the first are told where the first listens."""
    command = [sys.executable, "-m", "node", "start", "--home", str(node.home.path), "--threads", "1", "--no-mdns"]
    command += ["--session", str(settings.out / "session.toml"), "--listen", "/ip4/127.0.0.1/tcp/0"]
    if settings.data_dir is not None:
        command += ["--data-dir", str(settings.data_dir)]
    if first is not None:
        command += ["--peers", wait_for_address(first)]
    command += extra
    environment = {**os.environ, "FL_NODE_PASSPHRASE": passphrase, "OMP_NUM_THREADS": "1"}
    with (node.home.path / "node.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)


def wait_for_address(node: DemoNode, patience_s: float = 60.0) -> str:
    """Where a node listens, as soon as it does. NodeError with its last words if it ends first."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        addresses = read_status(node.home).get("addresses")
        if addresses:
            return str(addresses[0])
        if node.process is not None and node.process.poll() is not None:
            break
        time.sleep(0.05)
    raise NodeError(f"{node.name} did not come up: {last_words(node)}")


def last_words(node: DemoNode) -> str:
    """The end of a node's log."""
    lines = (node.home.path / "node.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"


def follow(
    nodes: Sequence[DemoNode], settings: DemoSettings, watch: Callable[[Sequence[Mapping[str, Any]]], None]
) -> list[str]:
    """Watches until every process has ended; returns what went wrong."""
    deadline = time.monotonic() + settings.timeout_s
    while any(node.process and node.process.poll() is None for node in nodes):
        watch([node.status() for node in nodes])
        if time.monotonic() > deadline:
            return [f"not finished within {settings.timeout_s:g} s"]
        time.sleep(0.25)
    watch([node.status() for node in nodes])
    codes = {node.name: node.process.returncode for node in nodes if node.process}
    return [
        f"{node.name} ended with status {codes[node.name]}: {last_words(node)}" for node in nodes if codes[node.name]
    ]


def end_all(nodes: Sequence[DemoNode]) -> None:
    """Ends the processes that still run, kindly at first."""
    running = [node.process for node in nodes if node.process and node.process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def build_report(
    settings: DemoSettings, opened: OpenSession, nodes: Sequence[DemoNode], seconds: float
) -> dict[str, Any]:
    """What happened, from the nodes' own statuses and, for everything that was promised, from the chain."""
    history = History(opened.ledger, opened.session_id)
    records = history.records()
    snapshots = records[records["snapshot"].notna()].to_dict(orient="records")
    return {
        "session": {"id": f"{opened.session_id:016x}", "task": settings.task, "rounds": settings.rounds},
        "seconds": round(seconds, 1),
        "members": sorted((member_report(node) for node in nodes), key=lambda one: str(one["member"]).zfill(5)),
        "ledger": {
            "address": opened.ledger.address,
            "chain_id": opened.session.ledger.chain_id,
            "records": int(records["complete"].sum()),
            "gas_total": int(history.gas()["gas"].sum()),
            "trust_rows": trust_rows(history),
        },
        "snapshots": [
            {"round": int(row["round"]), "member": int(row["member"]), "cid": row["snapshot"]} for row in snapshots
        ],
    }


def member_report(node: DemoNode) -> dict[str, Any]:
    """One member: who it is, how good its model became, what it sent and received."""
    status = node.status()
    rounds = status.get("finished_rounds", [])
    return {
        "member": status["member"],
        "name": node.name,
        "peer_id": status.get("peer_id"),
        "account": status.get("account"),
        "test_accuracy": rounds[-1]["metrics"].get("test_accuracy") if rounds else None,
        "rounds": len(rounds),
        "last_round": rounds[-1]["round"] if rounds else 0,
        "left_out": left_out([entry["round"] for entry in rounds]),
        "bytes_in": status.get("bytes_in", 0),
        "bytes_out": status.get("bytes_out", 0),
        "traffic": [
            {"round": entry["round"], "peer_id": peer, **spent}
            for entry in rounds
            for peer, spent in entry["traffic"].items()
            if peer
        ],
    }


def left_out(rounds: Sequence[int]) -> int:
    """How many rounds are missing among these finished ones; of a long session a status has the newest only."""
    first = 1 if len(rounds) < KEEP_ROUNDS else rounds[0]
    return rounds[-1] - first + 1 - len(rounds) if rounds else 0


def trust_rows(history: History) -> list[dict[str, Any]]:
    """Every recorded row: the 16-bit weights as they are on the chain."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for entry in history.trust_rows().to_dict(orient="records"):
        round, member = int(entry["round"]), int(entry["member"])
        row = rows.setdefault((round, member), {"round": round, "member": member, "peers": [], "weights": []})
        row["peers"].append(int(entry["peer"]))
        row["weights"].append(int(entry["weight"]))
    return [rows[key] for key in sorted(rows)]


def check_report(settings: DemoSettings, report: Mapping[str, Any]) -> list[str]:
    """What is missing: rounds to the last one, records that are not on the chain, rows that do not add up.

    A member that the others outrun leaves rounds out, and says so: of those no record is missing.
    """
    faults = [
        f"member {member['member']} ended after round {member['last_round']} of {settings.rounds}"
        for member in report["members"]
        if member["last_round"] != settings.rounds
    ]
    expected = sum(settings.rounds - member["left_out"] for member in report["members"])
    found = report["ledger"]["records"]
    if found != expected:
        faults.append(f"{found} of {expected} records are on the chain")
    if not report["audit"]["clean"]:
        faults.append(f"the audit found {report['audit']['first_fault']}")
    for row in report["ledger"]["trust_rows"]:
        if sum(row["weights"]) != WEIGHT_SUM:
            faults.append(f"the row of member {row['member']}, round {row['round']} adds up to {sum(row['weights'])}")
    return faults


def draw(out: Path, nodes: Sequence[DemoNode], report: Mapping[str, Any]) -> None:
    """Accuracy by round and trust as heat maps, as PNG files."""
    curves = {}
    for node in nodes:
        status = node.status()
        metrics = [(entry["round"], entry["metrics"]) for entry in status.get("finished_rounds", [])]
        points = [(round, seen["test_accuracy"]) for round, seen in metrics if seen.get("test_accuracy") is not None]
        curves[f"member {status['member']} ({node.name})"] = points
    plot_accuracy(curves, out / "accuracy.png")
    size = len(report["members"])
    matrices: dict[int, list[list[float]]] = {}
    for row in report["ledger"]["trust_rows"]:
        matrix = matrices.setdefault(row["round"], [[0.0] * size for _ in range(size)])
        for peer, weight in zip(row["peers"], row["weights"], strict=True):
            matrix[row["member"]][peer] = weight / WEIGHT_SUM
    plot_trust(matrices, out / "trust.png")
