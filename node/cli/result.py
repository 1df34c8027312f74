"""What a command answers, and the one place that prints it and ends the program.

A command returns a value with a `json` form; people see its `text`, programs see one JSON object on the last line of
standard output.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NoReturn, ParamSpec

import click
from rich.console import Console, RenderableType

from node.cli.logs import in_log_format
from node.errors import NodeError

P = ParamSpec("P")
FAULT = 2  # exit status for bad input and for what could not be done


@dataclass(frozen=True, slots=True)
class Result:
    """A command's answer: for programs, for people, and its exit status.

    `notes` are for people too, but on standard error: a text that is read by programs (CSV) has none of them.
    """

    json: Mapping[str, Any]
    text: RenderableType
    status: int = 0
    extra: tuple[RenderableType, ...] = field(default=())
    notes: tuple[str, ...] = ()


def answers(command: Callable[P, Result]) -> Callable[P, None]:
    """Gives a command `--json`, prints its result, and turns known errors into one line and exit status 2."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from ledger.errors import LedgerError  # web3 behind it takes a second: not for --help

        as_json = bool(kwargs.pop("as_json"))
        try:
            result = command(*args, **kwargs)
        except (NodeError, LedgerError) as error:
            fail(str(error), as_json)
        except ExceptionGroup as group:  # several tasks stumbled over the same thing, a full disk for one
            known, unknown = group.split((NodeError, LedgerError))
            if known is None or unknown is not None:
                raise
            fail(str(first_leaf(known)), as_json)
        show(result, as_json)

    return run


def first_leaf(group: ExceptionGroup[Exception]) -> Exception:
    """The first exception in nested groups."""
    first = group.exceptions[0]
    return first_leaf(first) if isinstance(first, ExceptionGroup) else first


def show(result: Result, as_json: bool) -> NoReturn:
    """Prints a result and ends the program with its status, also where nobody reads it to the end (`| head`)."""
    if sys.stdout is not None:  # or it was closed by the caller
        write(result, as_json)
    for line in () if as_json else result.notes:
        note(line)
    sys.exit(result.status)


def write(result: Result, as_json: bool) -> None:
    """Writes a result to standard output; what cannot be written, but for want of a reader, ends the program."""
    try:
        click.echo(json.dumps(result.json) if as_json else readable(result), nl=as_json)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        if not isinstance(error, BrokenPipeError):
            fail(f"the answer cannot be written: {error.strerror}")


def readable(result: Result) -> str:
    """A result as lines for people, with colours on a terminal."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.capture() as lines:  # Rich would end the program with status 1 where a pipe is closed
        for part in (result.text, *result.extra):
            console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    return lines.get()


def fail(message: str, as_json: bool = False, status: int = FAULT) -> NoReturn:
    """One line on standard error, or for programs an object with `error` on standard output; ends the program."""
    line = " ".join(message.split())
    if as_json:
        click.echo(json.dumps({"error": line}))
    else:
        click.echo(in_log_format(f"fl-node: {line}"), err=True)
    sys.exit(status)


def note(message: str) -> None:
    """A line of progress for people, on standard error so that results stay clean."""
    click.echo(in_log_format(message), err=True)
