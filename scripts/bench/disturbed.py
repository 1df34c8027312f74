"""What faults cost: `python scripts/bench/disturbed.py [--json] [--rounds N] [--cut SECONDS]`; --help has the rest.

Two sessions of a coordinator and 8 workers, real nodes on a real chain, MNIST softmax: one in peace; and one in which a
worker is killed (SIGKILL) and started again --away rounds later, the cable of another worker is cut for --cut seconds,
and the coordinator is killed and started again meanwhile. Then the second session is audited.

Every node, and the chain, is a host of its own: a network namespace at the switch of tests/switch.py, which loses every
frame to and from the worker whose cable is cut. That needs root on Linux; without it the script says so and ends, or
with --frozen stops that worker's process instead (SIGSTOP), with all nodes on this machine's loopback.

With --json the last line has `undisturbed` and `disturbed` (accuracies), `accuracy_difference` (in points; the bar is
0.3), `absent_rounds` and `returned` by worker (how many rounds, and the first one that used it after the fault), and
`audit` (clean, steps replayed and in all). Exit status 1 if the difference is above 0.3 or the audit is not clean.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from node.demo import DemoNode, end_all, make_home, wait_for_address  # noqa: E402 - the repository is on the path now
from tests.hosts import NEEDED, Hosts, hosts_are_possible  # noqa: E402

WORKERS = 8
KILLED, CUT = 1, 2  # which workers
BAR = 0.3  # points
ABSENT = -128
PATIENCE_S = 900.0
BOSS, CHAIN = "node0", "chain"
NAMES = [f"node{index}" for index in range(WORKERS + 1)]


class OneMachine:
    """All nodes on this machine: instead of its cable being cut a worker is stopped."""

    fault = "frozen"

    def address(self, _name: str) -> str:
        """Where others reach a node."""
        return "127.0.0.1"

    def port(self, name: str) -> int:
        """The port of a node, or of the chain."""
        return 0 if name != CHAIN else 18_545

    def inside(self, _name: str, *command: str) -> list[str]:
        """A command that runs where a node is."""
        return list(command)

    def cut(self, node: DemoNode) -> None:
        """The fault begins."""
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)

    def mend(self, node: DemoNode) -> None:
        """The fault ends."""
        assert node.process is not None
        node.process.send_signal(signal.SIGCONT)


class ManyHosts:
    """A host for each node, with a cable to a switch."""

    fault = "cable"

    def __init__(self, made: Hosts) -> None:
        self.made = made

    def address(self, name: str) -> str:
        """Where others reach a node."""
        return self.made.address(name)

    def port(self, name: str) -> int:
        """The port of a node, or of the chain."""
        return 4001 if name != CHAIN else 8545

    def inside(self, name: str, *command: str) -> list[str]:
        """A command that runs where a node is."""
        return self.made.inside(name, *command)

    def cut(self, node: DemoNode) -> None:
        """The fault begins."""
        self.made.link(node.name, loss=1.0)

    def mend(self, node: DemoNode) -> None:
        """The fault ends."""
        self.made.link(node.name)


@contextmanager
def wired(frozen: bool) -> Iterator[OneMachine | ManyHosts]:
    if frozen:
        yield OneMachine()
        return
    if not hosts_are_possible():
        raise SystemExit(f"cutting a cable {NEEDED}; with --frozen a process is stopped instead")
    made = Hosts((*NAMES, CHAIN), f"fl{os.getpid() % 100000}d")
    try:
        made.build()
        yield ManyHosts(made)
    finally:
        made.remove()


@dataclass
class World:
    """The machines, the chain, and what all sessions have in common."""

    machines: OneMachine | ManyHosts
    rounds: int
    step_s: float
    cut_s: float
    away: int
    passphrase: str = field(default_factory=lambda: secrets.token_urlsafe(8))

    @property
    def rpc(self) -> str:
        """The chain's URL."""
        return f"http://{self.machines.address(CHAIN)}:{self.machines.port(CHAIN)}"

    @property
    def environment(self) -> dict[str, str]:
        """What nodes and commands find in their environment."""
        ours = {"FL_NODE_PASSPHRASE": self.passphrase, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return {**os.environ, **ours}

    @contextmanager
    def chain(self) -> Iterator[None]:
        """A chain on a host of its own."""
        command = [sys.executable, "-m", "node", "devnet", "--host", "0.0.0.0", "--port", self.rpc.rsplit(":", 1)[1]]
        child = subprocess.Popen(
            self.machines.inside(CHAIN, *command),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )
        assert child.stderr is not None
        try:
            said = child.stderr.readline()
            if "anvil at" not in said:
                raise SystemExit(f"the chain did not start: {said}{child.stderr.read()}")
            yield
        finally:
            child.terminate()
            child.wait()
            child.stderr.close()

    def ask(self, *arguments: object) -> dict[str, Any]:
        """The JSON answer of a command that is given on the chain's host."""
        command = [sys.executable, "-m", "node", *map(str, arguments), "--json"]
        done = subprocess.run(
            self.machines.inside(CHAIN, *command), capture_output=True, text=True, cwd=ROOT, env=self.environment
        )
        if not done.stdout.strip():
            raise SystemExit(f"fl-node {arguments[0]}: {done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        if "error" in answer:
            raise SystemExit(f"fl-node {arguments[0]}: {answer['error']}")
        return answer


class Running:
    """A session of real nodes."""

    def __init__(self, world: World, place: Path) -> None:
        place.mkdir()
        self.world, self.file = world, place / "session.toml"
        self.nodes = [make_home(place / name, name, world.passphrase) for name in NAMES]
        choices = {"task": "mnist-softmax", "topology": "coordinated", "rounds": world.rounds, "members": WORKERS}
        choices |= {"quorum": 5, "seed": 7, "snapshot-every": 1, "round-deadline": 30, "rpc": world.rpc}
        options = [part for key, value in choices.items() for part in (f"--{key}", value)]
        world.ask("session", "create", "--home", self.nodes[0].home.path, "--out", self.file, *options)
        self.listen = f"/ip4/{world.machines.address(BOSS)}/tcp/{world.machines.port(BOSS)}"
        self.start(0)
        self.address = wait_for_address(self.nodes[0], 180.0)
        self.listen = self.address.split("/p2p/")[0]
        for index in range(1, WORKERS + 1):
            self.start(index)

    def start(self, index: int) -> None:
        """Starts the coordinator (0) or a worker."""
        node, machines = self.nodes[index], self.world.machines
        command = [sys.executable, "-m", "node", "-v", "start", "--home", str(node.home.path)]
        command += ["--session", str(self.file), "--threads", "1", "--no-mdns"]
        if index == 0:
            command += ["--role", "coordinator", "--listen", self.listen, "--quorum-timeout", "300"]
        else:
            command += ["--role", "worker", "--peers", self.address, "--throttle", str(self.world.step_s)]
            command += ["--listen", f"/ip4/{machines.address(node.name)}/tcp/{machines.port(node.name)}"]
        with (node.home.path / "node.log").open("ab") as log:
            node.process = subprocess.Popen(
                machines.inside(node.name, *command),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=self.world.environment,
            )

    def finished(self) -> int:
        """Rounds that are over."""
        return len(self.nodes[0].status().get("finished_rounds", []))

    def wait_for_round(self, round: int) -> None:
        """Returns when the round is over."""
        deadline = time.monotonic() + PATIENCE_S
        while self.finished() < round:
            if time.monotonic() > deadline:
                raise SystemExit(f"round {round} did not come: {self.nodes[0].status().get('state')}")
            time.sleep(0.2)

    def kill(self, index: int) -> None:
        """Kills a node (SIGKILL)."""
        process = self.nodes[index].process
        assert process is not None
        process.kill()
        process.wait()

    def wait_for_end(self) -> float:
        """The final accuracy of the coordinator's model, when every node has ended."""
        self.wait_for_round(self.world.rounds)
        deadline = time.monotonic() + 180.0
        for node in self.nodes:
            assert node.process is not None
            if (code := node.process.wait(max(1.0, deadline - time.monotonic()))) != 0:
                raise SystemExit(f"{node.name} ended with {code}: {(node.home.path / 'node.log').read_text()[-2000:]}")
        return float(self.nodes[0].status()["finished_rounds"][-1]["metrics"]["test_accuracy"])

    def absent(self) -> dict[int, list[int]]:
        """The rounds that each worker was absent from."""
        rounds = self.nodes[0].status()["finished_rounds"]
        cells = [(entry["round"], cell) for entry in rounds for cell in entry["inputs"]]
        return {
            member: [round for round, cell in cells if cell["member"] == member and cell["lag"] == ABSENT]
            for member in range(1, WORKERS + 1)
        }

    def member(self, index: int) -> int:
        """The number of a node on the ledger, which need not be that of its name."""
        return int(self.nodes[index].status()["member"])


def disturb(session: Running) -> dict[str, int]:
    """The faults, one after the other and on top of each other; the round in which each was over."""
    machines, cut = session.world.machines, session.nodes[CUT]
    session.wait_for_round(3)
    session.kill(KILLED)
    killed_in = session.finished()
    machines.cut(cut)
    cut_at = time.monotonic()
    session.wait_for_round(session.finished() + 3)
    session.kill(0)
    time.sleep(2)
    session.start(0)
    session.wait_for_round(killed_in + session.world.away)
    session.start(KILLED)
    over = {"killed": session.finished()}
    time.sleep(max(0.0, session.world.cut_s - (time.monotonic() - cut_at)))
    machines.mend(cut)
    over["cut"] = session.finished()
    print(f"the last fault is over in round {session.finished()}", file=sys.stderr)
    if session.finished() >= session.world.rounds:
        raise SystemExit("the session ended before the faults did: give more --rounds")
    return over


def returned(session: Running, index: int, over: int) -> int | None:
    """The first round after the fault that used an update of the worker; None if none did."""
    absent = session.absent()[session.member(index)]
    return next((round for round in range(over + 1, session.world.rounds + 1) if round not in absent), None)


def run(world: World, place: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        stack.enter_context(world.chain())
        peaceful = Running(world, place / "peaceful")
        stack.callback(end_all, peaceful.nodes)
        undisturbed = peaceful.wait_for_end()
        print(json.dumps({"undisturbed": undisturbed}), file=sys.stderr)
        session = Running(world, place / "disturbed")
        stack.callback(end_all, session.nodes)
        over = disturb(session)
        disturbed = session.wait_for_end()
        audit = world.ask("audit", "--session", session.file, "--rpc", world.rpc)
        return {
            "workers": WORKERS,
            "rounds": world.rounds,
            "fault": world.machines.fault,
            "cut_s": world.cut_s,
            "undisturbed": undisturbed,
            "disturbed": disturbed,
            "accuracy_difference": round(100 * (undisturbed - disturbed), 3),
            "absent_rounds": {member: len(rounds) for member, rounds in session.absent().items()},
            "killed": {"member": session.member(KILLED), "returned": returned(session, KILLED, over["killed"])},
            "cut": {"member": session.member(CUT), "returned": returned(session, CUT, over["cut"])},
            "audit": {
                name: audit[name] for name in ("clean", "steps_replayed", "steps_total", "first_fault", "gap_rounds")
            },
        }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    killed, cut, audit = report["killed"], report["cut"], report["audit"]
    how = "cable cut" if report["fault"] == "cable" else "process stopped"
    absent = report["absent_rounds"]
    rows = [
        ("accuracy undisturbed", f"{100 * report['undisturbed']:.2f} %"),
        ("accuracy disturbed", f"{100 * report['disturbed']:.2f} %"),
        ("difference", f"{report['accuracy_difference']:.2f} points (bar {BAR})"),
        ("worker killed", f"absent from {absent[killed['member']]} rounds, back in round {killed['returned']}"),
        (f"worker, {how}", f"{report['cut_s']:g} s, absent from {absent[cut['member']]}, back in {cut['returned']}"),
        ("others", f"absent from {sum(absent.values()) - absent[killed['member']] - absent[cut['member']]} rounds"),
        ("audit", f"{'clean' if audit['clean'] else 'NOT CLEAN'}, {audit['steps_replayed']} of {audit['steps_total']}"),
    ]
    return "\n".join(f"{name:<24} {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.03, help="seconds that a worker's step takes at least")
    parser.add_argument("--cut", type=float, default=60.0, help="seconds without a cable")
    parser.add_argument("--away", type=int, default=10, help="rounds until the killed worker is started again")
    parser.add_argument("--frozen", action="store_true", help="stop a worker's process instead; needs no root")
    options = parser.parse_args()
    with wired(options.frozen) as machines, tempfile.TemporaryDirectory() as place:
        world = World(machines, options.rounds, options.step, options.cut, options.away)
        report = run(world, Path(place))
    print(table(report), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(report))
    return int(report["accuracy_difference"] > BAR or not report["audit"]["clean"])


if __name__ == "__main__":
    sys.exit(main())
