"""`fl-node init`, `status` and `stop`: what concerns one node's home."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from ledger import create_keystore
from node.cli.options import home_option, passphrase_option
from node.cli.passphrase import new_passphrase
from node.cli.result import Result, answers
from node.dashboard.tables import status_view, tracker_view
from node.errors import HomeError
from node.home import Home, open_place, read_status, running_pid
from node.network.identity import create_identity


@click.command()
@home_option
@passphrase_option
@answers
def init(home: Path, passphrase_file: Path | None) -> Result:
    """Make a node's home: a libp2p identity and an Ethereum account in an encrypted keystore.

    \b
    Example: fl-node init --home a
    """
    place = Home(home)
    for existing in (place.identity, place.keystore):
        if existing.exists():
            raise HomeError(f"{home} is a node's home already ({existing.name} exists): use another --home")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(f"{home} cannot be made a directory: {error.strerror}") from error
    passphrase = new_passphrase(place, passphrase_file)
    account = create_keystore(place.keystore, passphrase)
    identity = create_identity(place.identity)
    fields = {"home": str(home), "peer_id": identity.peer_id, "account": account}
    return Result(fields, f"home     {home}\npeer id  {identity.peer_id}\naccount  {account}")


@click.command()
@home_option
@answers
def status(home: Path) -> Result:
    """Show what a node is doing: round, accuracy, peers, bytes, records; or what a tracker has done.

    \b
    Example: fl-node status --home a
    """
    place = open_place(home)
    seen: dict[str, Any] = {**read_status(place), "running": running_pid(place) is not None}
    if "peer_id" not in seen:
        raise HomeError(f"the node in {home} was never started: fl-node start --session FILE --home {home}")
    return Result(seen, tracker_view(seen) if "announces" in seen else status_view(seen))


@click.command()
@home_option
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the node to end.")
@answers
def stop(home: Path, timeout: float) -> Result:
    """Stop a running node in an orderly way: the round in flight ends, records are flushed.

    \b
    Example: fl-node stop --home a
    """
    place = open_place(home)
    pid = running_pid(place)
    if not pid:
        return Result({"stopped": False, "was_running": False}, f"no node is running in {home}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while running_pid(place) is not None:
        if time.monotonic() > deadline:
            raise HomeError(f"the node in {home} (process {pid}) did not end within {timeout:g} s: see its log")
        time.sleep(0.05)
    return Result({"stopped": True, "was_running": True}, f"the node in {home} has stopped")
