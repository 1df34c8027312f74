"""Real nodes for tests: homes with cheap keystores, a session on a real chain, processes that end with the test."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import trio
from eth_account import Account

from ledger import Devnet
from ledger.history import History
from ledger.keys import save_keystore
from node.agreement import OpenSession, create_session
from node.home import Home, read_status
from node.network.identity import create_identity
from node.wishes import Wishes

PASSPHRASE = "correct horse battery staple"
CHEAP_SCRYPT = 2
TASK = Path(__file__).parent / "learning" / "example_task.py"
REPOSITORY = Path(__file__).parent.parent


def make_home(path: Path) -> Home:
    """A home whose keystore opens at once."""
    path.mkdir(mode=0o700)
    home = Home(path)
    save_keystore(home.keystore, Account.create(), PASSPHRASE, CHEAP_SCRYPT)
    create_identity(home.identity)
    return home


def make_session(home: Home, chain: Devnet, path: Path, **wishes: object) -> OpenSession:
    """A session of the example task, written to `path`."""
    choices = {"task": f"{TASK}:task", "rounds": 4, "members": 3, "quorum": 3, "seed": 5, "round_deadline_s": 20.0}
    content, opened = trio.run(
        create_session, home, PASSPHRASE, Wishes(rpc=chain.url, name="test", **{**choices, **wishes})
    )
    path.write_bytes(content)
    return opened


def replayable(opened: OpenSession) -> int:
    """How many mixing steps a full audit can replay: those whose every input is of a round with snapshots.

    On a busy machine a member may mix a peer's earlier update: what was mixed is what the ledger says.
    """
    every, rounds = opened.session.snapshot_every, opened.session.rounds
    with History(opened.ledger, opened.session_id) as history:
        rows = history.trust_rows()
    named = rows[~rows["absent"]]
    from_round = named["round"] - named["lag"]
    known = (from_round % every == 0) | (from_round == rounds)
    stored = (named["round"] % every == 0) | (named["round"] == rounds)
    return int((known & stored).groupby([named["member"], named["round"]]).all().sum())


class NodeProcess:
    """`fl-node start` in a process of its own."""

    def __init__(
        self,
        home: Home,
        session: Path | str,
        *arguments: str,
        task: Path = TASK,
        inside: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        module: str = "node",
        logging: Sequence[str] = ("-v",),
    ) -> None:
        """`inside`: a command that runs a command, on another host for one; `module`: `tests.mortal` for who dies."""
        self.home = home
        self.log = home.path / "node.log"
        command = [*inside, sys.executable, "-m", module, *logging, "start", "--json", "--session", str(session)]
        command += ["--home", str(home.path), "--threads", "1", "--task", f"{task}:task", *arguments]
        if "--listen" not in arguments:
            command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        passphrase = {"FL_NODE_PASSPHRASE": PASSPHRASE, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **passphrase, **environment},
                cwd=REPOSITORY,
            )

    def status(self) -> dict:
        return read_status(self.home)

    def wait_for(self, what, seconds: float = 60.0):
        """The first true value of `what(status)`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := what(self.status()):
                return found
            assert self.process.poll() is None, f"the node ended: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {self.status()} {self.log.read_text()[-2000:]}")

    def address(self) -> str:
        return self.wait_for(lambda status: status.get("addresses"))[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self, seconds: float = 90.0) -> tuple[int, dict]:
        """Waits for the end; exit status and the JSON of the last line."""
        out, _ = self.process.communicate(timeout=seconds)
        lines = out.decode().strip().splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines else {}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def start_all(homes: list[Home], session: Path, *arguments: str, task: Path = TASK) -> list[NodeProcess]:
    """A process per home; all but the first are told where the first listens."""
    first = NodeProcess(homes[0], session, *arguments, task=task)
    peers = ("--peers", first.address(), "--no-mdns", *arguments)
    return [first, *(NodeProcess(home, session, *peers, task=task) for home in homes[1:])]


@contextmanager
def running(nodes: list[NodeProcess]) -> Iterator[None]:
    """Ends what still runs when the test is over."""
    try:
        yield
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.kill()
            elif node.process.stdout:
                node.process.stdout.close()
