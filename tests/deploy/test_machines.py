"""deploy.sh, start.sh, status.sh and shutdown.sh against real SSH servers on several hosts: one cut off, one slow."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.deploy.ssh_servers import ssh_servers
from tests.hosts import hosts, wait_until
from tests.nodes import REPOSITORY, TASK

pytestmark = pytest.mark.slow
NODES = ("alice", "bob", "slow", "lost")
ROUNDS = 100_000


class Fleet:
    """The operator's host: its commands, and the inventory."""

    def __init__(self, made, place, configuration, roles):
        self.made, self.place = made, place
        self.inventory, self.configuration = place / "inventory", configuration
        self.homes = {name: place / name for name in roles}
        hostile = f"--data-dir $(touch${{IFS}}{place}/pwned)'`id` --linger 5"  # a value that a shell would run
        lines = [
            f"{name} {made.address(name)} 2222 root {self.homes[name]} {role} --listen "
            f"/ip4/{made.address(name)}/tcp/4001 --no-mdns --publish --threads 1 --task {TASK}:task {hostile}"
            for name, role in roles.items()
        ]
        self.inventory.write_text("# the test's hosts\n" + "\n".join(lines) + "\n")

    def run(self, *command, timeout=300):
        return subprocess.run(
            self.made.inside("operator", *command), capture_output=True, text=True, timeout=timeout, check=False
        )

    def script(self, name, *arguments):
        """Exit status, the table as {host: (result, words)}, everything that was said."""
        command = [REPOSITORY / "scripts" / name, self.inventory, "--ssh-config", self.configuration, *arguments]
        done = self.run(*map(str, command))
        rows = {}
        for line in done.stdout.splitlines():
            if found := re.match(r"(\w+) +[\d.]+ +(ok|failed|unreachable|timed out) +\d+ ?(.*)", line):
                rows[found[1]] = (found[2], found[3].strip())
        return done.returncode, rows, done.stdout + done.stderr

    @contextlib.contextmanager
    def following(self, session):
        """`start.sh --follow`, which nothing but a signal ends; gives what it has said so far."""
        command = [REPOSITORY / "scripts" / "start.sh", self.inventory, "--ssh-config", self.configuration]
        command += ["--session", session, "--follow"]
        said = self.place / "followed"
        with said.open("wb") as out:
            child = subprocess.Popen(self.made.inside("operator", *map(str, command)), stdout=out, stderr=out)
        try:
            yield lambda: said.read_text(errors="replace")
            assert child.poll() is None, said.read_text()
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()

    def node(self, *arguments):
        done = self.run(sys.executable, "-m", "node", *map(str, arguments), "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])


@contextlib.contextmanager
def fleet(place):
    with hosts("operator", "chain", *NODES) as made, ssh_servers(place, made, NODES) as configuration:
        everybody = [name for name in made.names if name != "slow"]
        made.wire(everybody, ["slow"], delay=0.15)
        made.wire(["slow"], everybody, delay=0.15)
        made.wire(made.names, ["lost"], loss=1.0)
        made.wire(["lost"], made.names, loss=1.0)
        yield Fleet(made, place, configuration, dict.fromkeys(NODES, "-"))


@contextlib.contextmanager
def chain(made):
    command = [sys.executable, "-m", "node", "devnet", "--host", "0.0.0.0", "--port", "8545"]
    child = subprocess.Popen(made.inside("chain", *command), stderr=subprocess.PIPE, text=True)
    try:
        assert "anvil at" in child.stderr.readline()
        yield f"http://{made.address('chain')}:8545"
    finally:
        child.terminate()
        child.wait()
        child.stderr.close()


def until(fleet, what, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        code, rows, said = fleet.script("status.sh", "--timeout", "20")
        if what(rows):
            return code, rows
        assert time.monotonic() < deadline, said


def tails(place):
    """The processes on the hosts that follow a log."""
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line.startswith("tail ") and str(place) in line]


def rounds(rows, name):
    found = re.search(r"round (\d+) of", rows[name][1])
    return int(found[1]) if found else 0


def test_nodes_are_installed_started_followed_and_stopped_though_a_host_is_cut_off_and_one_is_slow(tmp_path):
    (tmp_path / "wheels").mkdir()
    with fleet(tmp_path) as ours, chain(ours.made) as rpc:
        started = time.monotonic()
        code, rows, said = ours.script("deploy.sh", "--wheelhouse", tmp_path / "wheels", "--timeout", "240")
        assert code == 1, said
        assert rows["lost"][0] == "unreachable", said
        for name in ("alice", "bob", "slow"):
            assert re.fullmatch(r"account 0x[0-9a-fA-F]{40}", rows[name][1]), said
        assert "1 of 4 hosts did not do it" in said
        accounts, first = rows, time.monotonic() - started

        started = time.monotonic()  # again: nothing to do, the same accounts
        code, rows, said = ours.script(
            "deploy.sh", "--wheel", *(REPOSITORY / "build" / "fleet").glob("*.whl"), "--wheelhouse", tmp_path / "wheels"
        )
        assert (code, rows) == (1, accounts), said
        assert time.monotonic() - started < first

        ours.node("init", "--home", tmp_path / "operator")
        session = tmp_path / "session.toml"
        ours.node(
            "session",
            "create",
            "--task",
            f"{TASK}:task",
            "--rounds",
            ROUNDS,
            "--quorum",
            3,
            "--members",
            3,
            "--snapshot-every",
            1,
            "--rpc",
            rpc,
            "--home",
            tmp_path / "operator",
            "--out",
            session,
        )
        code, rows, said = ours.script("start.sh", "--session", session)
        assert code == 1, said
        assert {name: result for name, (result, _) in rows.items()} == {
            "alice": "ok",
            "bob": "ok",
            "slow": "ok",
            "lost": "unreachable",
        }, said
        assert all(words.startswith("started, process") for name, (_, words) in rows.items() if name != "lost")
        _, rows, said = ours.script("start.sh", "--session", session, "--host", "bob")
        assert rows == {"bob": ("ok", "was running already")}, said

        code, rows = until(ours, lambda rows: all(rounds(rows, name) >= 5 for name in ("alice", "bob", "slow")))
        assert code == 1
        assert all(rows[name][1].startswith("running: ") for name in ("alice", "bob", "slow"))

        with ours.following(session) as said:
            wait_until(lambda: "was running already" in said(), 60)
            for name in NODES[:3]:  # lines of the node's own log, as they come
                wait_until(
                    lambda name=name: len(re.findall(rf"^{name}: .*round \d+ of", said(), re.MULTILINE)) >= 2, 60
                )
            assert "lost: not followed any more" in said()
            assert "bob: not followed any more" not in said()
            ours.made.link("bob", loss=1.0)
            wait_until(lambda: "bob: not followed any more" in said(), 60)
            ours.made.link("bob")
            before = said().count("alice: ")
            wait_until(lambda: said().count("alice: ") > before, 60)  # one that is lost ends it for nobody else
        wait_until(lambda: not tails(tmp_path), 60)
        _, rows = until(ours, lambda rows: rows["bob"][0] == "ok")
        assert all(rows[name][1].startswith("running: ") for name in NODES[:3]), "following ended, the nodes did not"

        code, rows, said = ours.script("shutdown.sh", "--collect", tmp_path / "reports")
        assert code == 1, said
        assert all(rows[name] == ("ok", f"the node in {ours.homes[name]} has stopped") for name in NODES[:3]), said
        for name in ("alice", "bob", "slow"):
            collected = tmp_path / "reports" / name
            assert json.loads((collected / "answer.json").read_text())["records_pending"] == 0
            assert json.loads((collected / "status.json").read_text())["finished_rounds"]
            assert (collected / "session.toml").read_bytes() == session.read_bytes()
            assert not {path.name for path in collected.iterdir()} & {"identity.key", "keystore.json", "passphrase"}
        assert not (tmp_path / "reports" / "lost" / "status.json").exists()
        code, rows, said = ours.script("shutdown.sh")
        assert [rows[name][0] for name in NODES] == ["ok", "ok", "ok", "unreachable"], said
        sources = [part for name in NODES[:3] for part in ("--ipfs", ours.homes[name])]
        report = ours.node("audit", "--session", session, "--rpc", rpc, *sources)
        assert report["clean"] is True
        assert report["steps_replayed"] >= 15
    assert not list(tmp_path.glob("*pwned*"))


def test_a_host_that_answers_too_slowly_costs_its_time_and_no_more(tmp_path):
    with fleet(tmp_path) as ours:
        ours.made.wire(ours.made.names, ["slow"], delay=0.8)
        ours.made.wire(["slow"], ours.made.names, delay=0.8)
        started = time.monotonic()
        code, rows, said = ours.script("status.sh", "--timeout", "5")
        assert time.monotonic() - started < 30
        assert code == 1
        assert rows["slow"][0] == "timed out", said
        assert rows["lost"][0] in ("timed out", "unreachable"), said
        assert rows["alice"][0] == rows["bob"][0] == "failed"
        assert "run scripts/deploy.sh" in rows["alice"][1]


def test_a_coordinator_and_a_worker_are_started_by_their_roles_and_the_coordinators_stop_ends_both(tmp_path):
    (tmp_path / "wheels").mkdir()
    roles = {"boss": "coordinator", "bob": "worker"}
    with (
        hosts("operator", "chain", *roles) as made,
        ssh_servers(tmp_path, made, tuple(roles)) as configuration,
        chain(made) as rpc,
    ):
        ours = Fleet(made, tmp_path, configuration, roles)
        code, accounts, said = ours.script("deploy.sh", "--wheelhouse", tmp_path / "wheels", "--timeout", "240")
        assert code == 0, said
        ours.node("init", "--home", tmp_path / "operator")
        session, boss = tmp_path / "session.toml", accounts["boss"][1].removeprefix("account ")
        wishes = ("--task", f"{TASK}:task", "--rounds", ROUNDS, "--topology", "coordinated", "--coordinator", boss)
        wishes += ("--members", 1, "--snapshot-every", 1, "--rpc", rpc, "--home", tmp_path / "operator")
        ours.node("session", "create", *wishes, "--out", session)

        code, rows, said = ours.script("start.sh", "--session", session)
        assert code == 0, said
        until(ours, lambda rows: all(rounds(rows, name) >= 3 for name in roles))
        assert ours.node("status", "--home", ours.homes["boss"])["registration"]["role"] == "coordinator"
        assert ours.node("status", "--home", ours.homes["bob"])["registration"]["role"] == "worker"

        code, rows, said = ours.script("shutdown.sh", "--host", "boss")
        assert rows == {"boss": ("ok", f"the node in {ours.homes['boss']} has stopped")}, said
        _, rows = until(ours, lambda rows: rows["bob"][1].startswith("not running: "))
        assert "the coordinator was stopped" in (ours.homes["bob"] / "node.log").read_text()
        answer = json.loads((ours.homes["bob"] / "answer.json").read_text())
        assert (answer["stopped"], answer["records_pending"]) == (False, 0), "its own end, with exit status 0"

        code, rows, said = ours.script("shutdown.sh", "--collect", tmp_path / "reports")  # again: nobody runs
        assert code == 0, said
        assert json.loads((tmp_path / "reports" / "boss" / "answer.json").read_text())["records_pending"] == 0
        sources = [part for name in roles for part in ("--ipfs", ours.homes[name])]
        report = ours.node("audit", "--session", session, "--rpc", rpc, *sources)
        assert report["clean"] is True
        assert report["steps_replayed"] >= 3
