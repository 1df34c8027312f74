"""How a command ends when several of its tasks fail at once."""

import json

import click
import pytest
from click.testing import CliRunner

from ledger import OutboxError
from node.cli.result import answers
from node.errors import HomeError


def ends_with(error):
    @click.command()
    @answers
    def command():
        raise error

    return CliRunner().invoke(command, ["--json"])


def test_known_errors_of_several_tasks_are_told_as_the_first_of_them():
    full = [HomeError("the disk is full"), OutboxError("the disk is full too")]
    ended = ends_with(ExceptionGroup("tasks", [ExceptionGroup("inner", full[:1]), full[1]]))
    assert (ended.exit_code, json.loads(ended.stdout)) == (2, {"error": "the disk is full"})


def test_an_unknown_error_among_them_stays_as_loud_as_it_was():
    group = ExceptionGroup("tasks", [HomeError("the disk is full"), ZeroDivisionError()])
    ended = ends_with(group)
    assert ended.exception is group
    with pytest.raises(ZeroDivisionError):
        raise ended.exception.exceptions[1]
