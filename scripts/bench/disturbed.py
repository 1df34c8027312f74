"""What faults cost: `python scripts/bench/disturbed.py [--json] [--rounds N] [--step SECONDS]`.

Two sessions of a coordinator and 8 workers, real nodes on a real chain, MNIST softmax: one in peace; and one in which a
worker is killed (SIGKILL) and started again 10 rounds later, the coordinator is killed and started again, and another
worker is stopped for a minute (SIGSTOP: its connections hang, as with the cable out). Then the second one is audited.

With --json the last line has `accuracy_difference` (undisturbed − disturbed, in points), `audit` (clean, steps replayed
and in all) and `rounds` of both.
"""

import argparse
import json
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import trio
from balancing import start

from ledger import Devnet, DevnetOptions
from node.agreement import OpenSession, Wishes, create_session
from node.audit.run import AuditSettings, audit_opened
from node.demo import DemoNode, end_all, make_home, wait_for_address

WORKERS = 8
CUT_S = 60.0
PATIENCE_S = 900.0


class Running:
    """A session of real nodes."""

    def __init__(self, place: Path, chain: Devnet, rounds: int, step_s: float) -> None:
        place.mkdir()
        self.passphrase, self.step_s, self.rounds = secrets.token_urlsafe(8), step_s, rounds
        self.nodes = [make_home(place / f"node{i}", f"node{i}", self.passphrase) for i in range(WORKERS + 1)]
        wishes = Wishes(
            task="mnist-softmax",
            rounds=rounds,
            rpc=chain.url,
            members=WORKERS,
            quorum=5,
            seed=7,
            snapshot_every=1,
            round_deadline_s=30.0,
            topology="coordinated",
        )
        content, self.opened = trio.run(create_session, self.nodes[0].home, self.passphrase, wishes)
        self.file = place / "session.toml"
        self.file.write_bytes(content)
        self.listen = "/ip4/127.0.0.1/tcp/0"
        self.boss()
        self.address = wait_for_address(self.nodes[0], 180.0)
        self.listen = self.address.split("/p2p/")[0]
        for index in range(1, WORKERS + 1):
            self.worker(index)

    def boss(self) -> None:
        """Starts the coordinator."""
        start(self.nodes[0], self.file, self.passphrase, 0.0, ["--listen", self.listen])

    def worker(self, index: int) -> None:
        """Starts a worker."""
        start(self.nodes[index], self.file, self.passphrase, self.step_s, ["--peers", self.address])

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

    def kill(self, node: DemoNode) -> None:
        """Kills a node (SIGKILL)."""
        assert node.process is not None
        node.process.kill()
        node.process.wait()

    def wait_for_end(self) -> float:
        """The final accuracy of the coordinator's model."""
        self.wait_for_round(self.rounds)
        deadline = time.monotonic() + 180.0
        for node in self.nodes:
            assert node.process is not None
            node.process.wait(max(1.0, deadline - time.monotonic()))
        return float(self.nodes[0].status()["finished_rounds"][-1]["metrics"]["test_accuracy"])


def disturb(session: Running) -> None:
    """The faults, one after the other and on top of each other."""
    session.wait_for_round(3)
    session.kill(session.nodes[1])
    frozen = session.nodes[2].process
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)
    frozen_at = time.monotonic()
    session.wait_for_round(session.finished() + 3)
    session.kill(session.nodes[0])
    time.sleep(2)
    session.boss()
    session.wait_for_round(13)
    session.worker(1)
    time.sleep(max(0.0, CUT_S - (time.monotonic() - frozen_at)))
    frozen.send_signal(signal.SIGCONT)
    print(f"the last fault is over in round {session.finished()}", file=sys.stderr)


def check(opened: OpenSession, file: Path, rpc: str) -> dict[str, object]:
    report = trio.run(audit_opened, opened, AuditSettings(file, rpc), lambda _line: None).json()
    return {name: report[name] for name in ("clean", "steps_replayed", "steps_total", "first_fault", "gap_rounds")}


def absences(session: Running) -> dict[int, int]:
    """How many rounds each worker was absent from."""
    rows = [entry["inputs"] for entry in session.nodes[0].status()["finished_rounds"]]
    members = range(1, WORKERS + 1)
    return {m: sum(cell["lag"] == -128 for row in rows for cell in row if cell["member"] == m) for m in members}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.03, help="seconds that a worker sleeps after a step")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        Devnet(DevnetOptions(block_time=1.0, free_gas=True)) as chain,
        ExitStack() as stack,
    ):
        peaceful = Running(Path(place) / "peaceful", chain, options.rounds, options.step)
        stack.callback(end_all, peaceful.nodes)
        undisturbed = peaceful.wait_for_end()
        print(json.dumps({"undisturbed": undisturbed}), file=sys.stderr)
        session = Running(Path(place) / "disturbed", chain, options.rounds, options.step)
        stack.callback(end_all, session.nodes)
        disturb(session)
        disturbed = session.wait_for_end()
        report = {
            "workers": WORKERS,
            "rounds": options.rounds,
            "undisturbed": undisturbed,
            "disturbed": disturbed,
            "accuracy_difference": round(100 * (undisturbed - disturbed), 3),
            "absent_rounds": absences(session),
            "audit": check(session.opened, session.file, chain.url),
        }
    print(json.dumps(report) if options.json else json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
