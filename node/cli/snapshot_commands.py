"""`fl-node snapshot list|show|get|add|pin|unpin|gc`: what a node keeps in IPFS."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ledger import LedgerError
from node.cli.options import home_option, ipfs_option, rpc_option, session_key_option
from node.cli.result import Result, answers, note
from node.cli.snapshot_places import (
    Place,
    place_of,
    reach_options,
    read_ledger,
    require_ledger,
    run,
    session_option,
)
from node.errors import ConfigError, NodeError, StorageError
from node.home import open_home
from node.storage import (
    Collected,
    Pin,
    Retention,
    Snapshots,
    canonical_cid,
    describe,
    expired,
    export,
    is_sealed,
    read_key,
)
from node.storage import take_inventory as take_inventory_of


@click.group()
def snapshot() -> None:
    """List, show, get, pin and release the snapshots that a node keeps in IPFS."""


@snapshot.command("list")
@home_option
@ipfs_option
@session_option
@rpc_option()
@answers
def list_(home: Path, ipfs: str | None, session_path: str | None, rpc: str | None) -> Result:
    """List the snapshots that a home keeps, whether they are whole, and whether the ledger names them.

    \b
    Example: fl-node snapshot list --home a
             fl-node snapshot list --home a --session session.toml --rpc http://127.0.0.1:8545
    """
    place = open_home(home)
    recorded = None
    try:
        recorded = read_ledger(place, session_path, rpc)
    except (NodeError, LedgerError) as error:
        note(f"which of them are recorded is not known: {error}")
    inventory = run(Place(home, ipfs), take_inventory_of)
    rows = [
        {
            **pin_fields(held.pin),
            "whole": held.whole,
            "recorded": None if recorded is None else held.pin.cid in recorded.cids,
        }
        for held in inventory.held
    ]
    table = Table(header_style="bold", caption_justify="left")
    table.caption = f"{len(rows)} snapshots, {inventory.size:,} bytes on disk"
    for name in ("cid", "round", "member", "bytes", "pinned", "whole", "recorded"):
        table.add_column(name, justify="right" if name in ("round", "member", "bytes") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for key, value in row.items() if key != "session"))
    return Result({"snapshots": rows, "bytes": inventory.size}, table)


@snapshot.command()
@click.argument("cid")
@reach_options
@answers
def show(cid: str, **where: Any) -> Result:
    """Show the files of a snapshot: name, bytes, SHA-256 and CID. Every byte is verified against the CID.

    \b
    Example: fl-node snapshot show bafybei… --home a
             fl-node snapshot show bafybei… --peers /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
    """
    place = place_of(**where)

    async def look(snapshots: Snapshots) -> list[dict[str, Any]]:
        files = []
        for entry in (await describe(snapshots, cid)).entries:
            content = await snapshots.read(cid, entry.name, place.limit)
            digest = hashlib.sha256(content).hexdigest()
            files.append({"name": entry.name, "bytes": entry.size, "sha256": digest, "cid": entry.cid})
        return files

    files = run(place, look)
    table = Table(header_style="bold", caption=cid, caption_justify="left")
    for name in ("name", "bytes", "sha256", "cid"):
        table.add_column(name, justify="right" if name == "bytes" else "left", no_wrap=True)
    for file in files:
        table.add_row(*(_cell(value) for value in file.values()))
    return Result({"cid": cid, "files": files}, table)


@snapshot.command()
@click.argument("cid")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where the files go.")
@reach_options
@answers
def get(cid: str, out: Path, **where: Any) -> Result:
    """Write the files of a snapshot to a directory, verified; nothing there is overwritten.

    \b
    Example: fl-node snapshot get bafybei… --home a --out round-5
             fl-node snapshot get bafybei… --ipfs http://127.0.0.1:5001 --out round-5
    """
    place = place_of(**where)
    paths = run(place, lambda snapshots: export(snapshots, cid, out, place.limit))
    size = sum(path.stat().st_size for path in paths)
    fields = {"cid": cid, "files": [str(path) for path in paths], "bytes": size}
    return Result(fields, "\n".join(f"{path}  {path.stat().st_size:,} bytes" for path in paths))


@snapshot.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@home_option
@ipfs_option
@session_key_option
@answers
def add(folder: Path, home: Path, ipfs: str | None, session_key: Path | None) -> Result:
    """Add the files of a folder, as `get` wrote it, and pin them: the CID is the same again.

    What `get` opened with the key of a sealed session is sealed again with the same --session-key.

    \b
    Example: fl-node snapshot add round-5 --home a
    """
    keys = open_home(home).session_keys()
    files: dict[str, bytes | Path] = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    if session_key is None and keys and not all(is_sealed(folder / name) for name in files):
        raise ConfigError(f"{home} is of a sealed session, and {folder} is not sealed: add --session-key {keys[0]}")
    key = None if session_key is None else read_key(session_key)
    cid = run(Place(home, ipfs, key=key), lambda snapshots: snapshots.add(files))
    return Result({"cid": cid, "files": sorted(files)}, f"{cid}  {', '.join(sorted(files))}")


@snapshot.command()
@click.argument("cid")
@reach_options
@answers
def pin(cid: str, **where: Any) -> Result:
    """Keep a snapshot, fetching what is missing; this also mends a damaged one.

    \b
    Example: fl-node snapshot pin bafybei… --home a --peers /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
    """
    place = place_of(**where)
    open_home(place.home)
    cid = canonical_cid(cid)

    async def keep(snapshots: Snapshots) -> Pin:
        await snapshots.pin(cid)
        found = [pin for pin in await snapshots.pins() if pin.cid == cid]
        if not found:
            raise StorageError(f"{cid} is not in the list of pins although it was pinned without an error: try again")
        return found[0]

    kept = run(place, keep)
    return Result(pin_fields(kept), f"{kept.cid} is kept, {kept.size:,} bytes")


@snapshot.command()
@click.argument("cid")
@home_option
@ipfs_option
@session_option
@rpc_option()
@click.option("--force", is_flag=True, help="Release it although the ledger names it, or could not be asked.")
@answers
def unpin(cid: str, home: Path, ipfs: str | None, force: bool, **ledger: str | None) -> Result:
    """Release a snapshot, so that the next `gc` removes it; one that the ledger names only with --force.

    \b
    Example: fl-node snapshot unpin bafybei… --home a
    """
    place, cid = open_home(home), canonical_cid(cid)
    recorded = None if force else require_ledger(place, **ledger)

    async def release(snapshots: Snapshots) -> None:
        held = next((pin for pin in await snapshots.pins() if pin.cid == cid), None)
        if held is not None and recorded is not None and recorded.protects(held):
            raise StorageError(f"the ledger names {cid}: an audit needs it; --force releases it all the same")
        await snapshots.unpin(cid)

    run(Place(home, ipfs), release)
    return Result({"cid": cid, "pinned": False}, f"{cid} is released: `fl-node snapshot gc` removes what nobody pins")


@snapshot.command()
@home_option
@ipfs_option
@session_option
@rpc_option()
@click.option("--keep-last", type=click.IntRange(1), help="Release all but the newest N snapshots of each member.")
@click.option("--keep-every", type=click.IntRange(1), help="Keep also those of each K-th round, and the newest.")
@click.option("--dry-run", is_flag=True, help="Only say what would be released.")
@click.option(
    "--force",
    is_flag=True,
    help="Release also what the ledger names (it is not asked), and forget a lost list of pins.",
)
@answers
def gc(home: Path, ipfs: str | None, dry_run: bool, **choices: Any) -> Result:
    """Release snapshots by a policy, if one is given, and remove every block that no pin needs.

    What the ledger names stays without --force. A Kubo daemon's own garbage is its user's: run `ipfs repo gc`.

    \b
    Example: fl-node snapshot gc --home a
             fl-node snapshot gc --home a --keep-last 3 --keep-every 10 --dry-run
    """
    place = open_home(home)
    last, every, force = choices["keep_last"], choices["keep_every"], choices["force"]
    policy = Retention(last or 1, every or 0) if last or every else None
    asks = policy is not None and not force
    recorded = require_ledger(place, choices["session_path"], choices["rpc"]) if asks else None

    async def clean(snapshots: Snapshots) -> tuple[list[Pin], Collected]:
        pins = await snapshots.pins()
        named = recorded.protected(pins) if recorded is not None else ()
        released = expired(pins, policy, named) if policy is not None else []
        if dry_run:
            return released, Collected(0, 0)
        for one in released:
            await snapshots.unpin(one.cid)
        return released, await snapshots.gc(force) if ipfs is None else Collected(0, 0)

    released, collected = run(Place(home, ipfs), clean)
    fields = {
        "dry_run": dry_run,
        "released": [pin_fields(one) for one in released],
        "blocks": collected.blocks,
        "bytes": collected.bytes,
    }
    size, word = sum(one.size for one in released), "would be released" if dry_run else "released"
    text = f"{len(released)} snapshots of {size:,} bytes {word}"
    if not dry_run:
        text += f"; {collected.blocks} blocks, {collected.bytes:,} bytes removed"
    return Result(fields, "\n".join([*(one.cid for one in released), text]))


def pin_fields(pin: Pin) -> dict[str, Any]:
    """A pin for programs."""
    label = pin.label
    return {
        "cid": pin.cid,
        "session": None if label is None else f"{label.session:016x}",
        "round": None if label is None else label.round,
        "member": None if label is None else label.member,
        "bytes": pin.size,
        "pinned": datetime.fromtimestamp(pin.at, UTC).isoformat(timespec="seconds"),
    }


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else str(value)
