"""Adds the rounds that an outbox lacks, and pumps, in processes that are killed. Run by test_outbox_kills.

Imports once; then for every line on standard input, a number of seconds, forks a process that is killed after them.
"""

import os
import select
import signal
import sys
from pathlib import Path

from eth_account import Account

from ledger import Input, Ledger, Mix, Record, connect
from ledger.outbox import Outbox

LAST = 24


def record(session_id, round):
    mix = Mix(1, (Input(0, 65535),), round.to_bytes(32, "big")) if round else None
    return Record(session_id, round, (round + 1).to_bytes(32, "big") if round <= LAST else None, mix)


def run(url, address, session_id, key, path):
    outbox = Outbox(Path(path), Ledger(connect(url), address), Account.from_key(key))
    for round in range(LAST + 2):  # the last one is the closing record; those that are there already stay as they are
        outbox.add(record(int(session_id), round))
        outbox.pump()
    while outbox.pump().pending:
        pass


def killed_after(seconds, arguments):
    """Whether the process had to be killed."""
    pid = os.fork()
    if not pid:
        run(*arguments)
        os._exit(0)
    handle = os.pidfd_open(pid)
    late = not select.select([handle], [], [], seconds)[0]
    if late:
        os.kill(pid, signal.SIGKILL)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    return "killed" if late else f"exit {os.waitstatus_to_exitcode(status)}"


if __name__ == "__main__":
    for line in sys.stdin:
        print(killed_after(float(line), sys.argv[1:]), flush=True)
