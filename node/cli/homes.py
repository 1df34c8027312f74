"""`fl-node init`, `passphrase`, `status` and `stop`: what concerns one node's home."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ledger import WrongPassphrase, change_passphrase, create_keystore, load_keystore
from node.cli.options import Seconds, home_option, passphrase_option
from node.cli.passphrase import changed_passphrase, new_passphrase, read_passphrase
from node.cli.result import Result, answers
from node.dashboard.tables import status_view, tracker_view
from node.errors import HomeError
from node.files import write_atomically
from node.home import Home, holds, lock_home, open_home, open_place, read_status, running_pid
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
        if holds(place, existing):
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
@passphrase_option
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the new one; default: FL_NODE_NEW_PASSPHRASE, or a prompt.",
)
@answers
def passphrase(home: Path, passphrase_file: Path | None, new_passphrase_file: Path | None) -> Result:
    """Change the passphrase of a home's keystore, and of the file `passphrase` if it lies in the home.

    The node must be stopped. If this is interrupted, the same command again finishes it.

    \b
    Example: fl-node passphrase --home a --new-passphrase-file new.txt
    """
    place = open_home(home)
    with lock_home(place):
        old = read_passphrase(place, passphrase_file)
        new = changed_passphrase(new_passphrase_file)
        account = _change(place, old, new)
        kept = place.passphrase.is_file()
        if kept:
            write_atomically(place.passphrase, new.encode() + b"\n")
    text = f"the keystore of {account} has the new passphrase" + (f", which is in {place.passphrase}" if kept else "")
    return Result({"home": str(home), "account": account, "passphrase_file_changed": kept}, text)


def _change(place: Home, old: str, new: str) -> str:
    try:
        return change_passphrase(place.keystore, old, new)
    except WrongPassphrase as wrong:
        try:
            return str(load_keystore(place.keystore, new).address)  # an interrupted change got as far as this
        except WrongPassphrase:
            raise wrong from None


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
@click.option(
    "--timeout", default=120.0, show_default=True, type=Seconds(), help="Seconds to wait for the node to end."
)
@answers
def stop(home: Path, timeout: float) -> Result:
    """Stop a running node in an orderly way: the round in flight ends, records are flushed.

    \b
    Example: fl-node stop --home a
    """
    place = open_place(home)
    pid = running_pid(place)
    if pid is None:
        return Result({"stopped": False, "was_running": False}, f"no node is running in {home}")
    deadline, told = time.monotonic() + timeout, False
    while (pid := running_pid(place)) is not None:
        if pid and not told:  # 0: it is just starting, or ending
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            told = True
        if time.monotonic() > deadline:
            raise HomeError(f"the node in {home} (process {pid}) did not end within {timeout:g} s: see its log")
        time.sleep(0.05)
    return Result({"stopped": True, "was_running": True}, f"the node in {home} has stopped")
