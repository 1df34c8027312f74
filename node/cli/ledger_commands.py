"""`fl-node history` and `fl-node audit`: what an outsider sees, without a node and without a key."""

import io
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import click
import numpy as np
import pandas as pd
import trio
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ledger import History, LedgerError
from ledger.log_store import Progress
from node.agreement import open_session
from node.audit.evidence import judge_evidence
from node.audit.report import printable
from node.audit.run import AuditSettings, audit_session
from node.audit.snapshots import is_daemon
from node.cli.options import rpc_option, session_key_option, session_option
from node.cli.result import Result, answers, note
from node.dashboard.tables import matrix_table
from node.errors import ConfigError, NodeError, ProgramError
from node.sources import Ways, is_remote, read_source

SHOWN = ("round", "member", "update_hash", "mixed_hash", "snapshot", "block", "gas", "complete")
session_option_unless_evidence = click.option(
    "--session",
    "session_path",
    envvar="FL_NODE_SESSION",
    help="The session file: a path, an http(s) URL, or an IPFS CID.",
)
ROUNDS = click.IntRange(1, 2**32 - 1)
VIEWS = ("records", "members", "trust", "gas")


@click.command()
@session_option
@rpc_option()
@click.option("--view", type=click.Choice(VIEWS), default="records", show_default=True, help="Which table.")
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Write the table to a CSV file.")
@click.option("--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write the table to a Parquet file.")
@click.option(
    "--cache", type=click.Path(path_type=Path, dir_okay=False), help="A file that the next call reads on from."
)
@answers
def history(session_path: str, rpc: str | None, view: str, cache: Path | None, **files: Path | None) -> Result:
    """Show a session's records, members, trust rows or gas from the ledger, checked against the contract's slots.

    \b
    Example: fl-node history --session session.toml --rpc http://127.0.0.1:8545
             fl-node history --session session.toml --view trust --parquet trust.parquet
             fl-node history --session session.toml --cache session.history --csv records.csv
    """
    opened = open_session(session_path, rpc)
    with reading_bar() as progress, History(opened.ledger, opened.session_id, cache, progress=progress) as past:
        past.verify()
        frame = {"records": past.records, "members": past.members, "trust": past.trust_rows, "gas": past.gas}[view]()
        past.verify()  # of blocks that came meanwhile, which the table may have
    for kind, write in (("csv", _write_csv), ("parquet", _write_parquet)):
        path = files[kind]
        if path is not None:
            write(frame, path)
            note(f"{len(frame)} rows in {path}")
    fields = {
        "session": f"{opened.session_id:016x}",
        "address": opened.ledger.address,
        "chain_id": opened.session.ledger.chain_id,
        view: plain(frame),
    }
    extra: tuple[Any, ...] = ()
    if view == "trust" and len(frame):
        extra = (last_matrix(frame),)
    return Result(fields, frame_table(frame), extra=extra)


@contextmanager
def reading_bar() -> Iterator[Progress]:
    """A bar for (blocks read, blocks to read), on standard error if that is a terminal."""
    columns = (TextColumn("reading the ledger"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("blocks", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A DataFrame as JSON values: bytes in hex, missing values as null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def frame_table(frame: pd.DataFrame, limit: int = 200) -> Table:
    """The last rows of a DataFrame for a terminal, long values shortened."""
    columns = [name for name in frame.columns if name in SHOWN or "hash" not in frame.columns]
    if "update_hash" in frame.columns:
        columns = [name for name in SHOWN if name in frame.columns]
    table = Table(header_style="bold", caption=f"{len(frame)} rows", caption_justify="left")
    for name in columns:
        table.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(frame[name]) else "left")
    for row in plain(frame[columns].tail(limit)):
        table.add_row(*(Text(printable(_short(row[str(name)]))) for name in columns))  # members wrote some of it
    return table


def _short(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:10]}…{text[-8:]}"


def last_matrix(frame: pd.DataFrame, most: int = 32) -> Table:
    """The trust matrix of the last round, of the first members only: a row may name thousands that never were."""
    last = frame[frame["round"] == frame["round"].max()]
    last = last.assign(share=last["weight"] / last.groupby("member")["weight"].transform("sum"))
    members = np.union1d(last["member"], last["peer"]).tolist()
    shown = members[:most]
    last = last[last["member"].isin(shown) & last["peer"].isin(shown)]
    rows = {member: dict(zip(part["peer"], part["share"], strict=True)) for member, part in last.groupby("member")}
    table = matrix_table(rows, shown)
    if len(shown) < len(members):
        table.caption = f"the first {most} of {len(members)} members"
    return table


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with _written(path) as file:
        frame.to_csv(file, index=False)


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    with _written(path) as file:
        frame.to_parquet(file, index=False)


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file whose content is written at the end: what pandas leaves in its buffers would fail once more."""
    content = io.BytesIO()
    yield content
    try:
        with path.open("wb", buffering=0) as file:
            left = content.getbuffer()
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


@click.command()
@session_option_unless_evidence
@rpc_option()
@click.option(
    "--ipfs",
    multiple=True,
    envvar="FL_NODE_IPFS",
    help="Where snapshots are: a node's home or Kubo's URL (default: the homes beside the session file).",
)
@session_key_option
@click.option("--from", "first", type=ROUNDS, default=1, show_default=True, help="First round.")
@click.option("--to", "last", type=ROUNDS, help="Last round; default: all.")
@click.option("--evidence", type=click.Path(path_type=Path), help="Judge a file of signed announcements, offline.")
@answers
def audit(session_path: str | None, rpc: str | None, evidence: Path | None, **choices: Any) -> Result:
    """Check a session's log: hash chains, identities, cohorts, rows; and bit for bit each mixing step with snapshots.

    Exit status: 0 no fault found, 1 evidence of wrongdoing, 2 it could not be checked (no step has its snapshots).

    \b
    Example: fl-node audit --session session.toml --rpc http://127.0.0.1:8545 --ipfs a
             fl-node audit --evidence a/evidence/equivocation-2-17.json
    """
    with no_accident_convicts():
        return _audit(session_path, rpc, evidence, **choices)


@contextmanager
def no_accident_convicts() -> Iterator[None]:
    """Makes 2 of every exit status that says nothing about members: Python's own, 1, would convict them."""
    try:
        yield
    except (NodeError, LedgerError, click.ClickException):
        raise
    except KeyboardInterrupt as error:
        raise ConfigError("interrupted before there was a verdict: run it again") from error
    except Exception as error:  # the program's own mistakes, whatever they are
        traceback.print_exc()
        what = f"fault of this program ({error!r:.200}), not evidence against anybody"
        raise ProgramError(f"{what}: please report it with the lines above") from error


def _audit(session_path: str | None, rpc: str | None, evidence: Path | None, **choices: Any) -> Result:
    if evidence is not None:
        if ignored := _named(("session_path", "rpc", "ipfs", "session_key", "first", "last")):
            raise ConfigError(f"--evidence is judged offline, by itself: leave {', '.join(ignored)} out")
        verdict = judge_evidence(evidence)
        found = "is convicted" if verdict.convicts else "is not convicted"
        text = f"{verdict.peer_id} {found} of two updates for round {verdict.round}: {verdict.reason}"
        return Result(verdict.json(), escape(printable(text)), 1 if verdict.convicts else 0)
    if session_path is None:
        raise ConfigError("nothing to audit: pass --session FILE, or --evidence FILE")
    console = Console(stderr=True)
    with on_disk(session_path, choices["ipfs"]) as file, console.status("auditing") as spinner:
        report = trio.run(audit_session, AuditSettings(file, rpc, **choices), spinner.update)
    if report.sealed and choices["session_key"] is None:
        note("the session is sealed: no mixing step is replayed without --session-key FILE, from its creator")
    return Result(report.json(), report.text(), report.status)


def _named(options: Sequence[str]) -> list[str]:
    """Those of the options that stand on the command line, as they are written there."""
    context = click.get_current_context()
    given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return [each.opts[0] for each in context.command.params if each.name in given]


@contextmanager
def on_disk(source: str, ipfs: Sequence[str]) -> Iterator[Path]:
    """The path of a session file, which is fetched first if it is a URL or a CID (from one of the Kubo daemons)."""
    if not is_remote(source):
        yield Path(source)
        return
    if not ipfs:
        raise ConfigError(f"{source} has no homes beside it: say with --ipfs where the snapshots are")
    kubo = next((place for place in ipfs if is_daemon(place)), None)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "session.toml"
        path.write_bytes(read_source(source, Ways(kubo)))
        yield path
