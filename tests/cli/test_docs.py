"""The documents and the command table say the same."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from node.cli.app import COMMANDS, SUMMARIES, cli
from node.home import read_status

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def commands(group=cli, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert f"fl-node {' '.join(path)}" in result.output


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_can_answer_in_json(path):
    assert any("--json" in parameter.opts for parameter in ALL[path].params)


def test_every_command_stands_in_the_readme():
    for name in COMMANDS:
        assert f"fl-node {name}" in README, name


def test_every_command_has_a_summary():
    assert set(SUMMARIES) == set(COMMANDS)


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md"])
def test_every_flag_in_the_documents_exists(name):
    known = {flag for command in ALL.values() for parameter in command.params for flag in parameter.opts}
    known |= {flag for parameter in cli.params for flag in parameter.opts} | {"--help"}
    for line in re.findall(r"fl-node .*", (ROOT / name).read_text()):
        for flag in re.findall(r"--[a-z-]+", line):
            assert flag in known, f"{flag} in {line!r}"


def test_the_example_task_in_the_docs_is_the_one_that_the_tests_run():
    example = (ROOT / "tests" / "learning" / "example_task.py").read_text().strip()
    assert example in (ROOT / "docs" / "tasks.md").read_text()


@pytest.mark.real
def test_every_field_of_a_nodes_status_is_explained(finished_run):
    explained = (ROOT / "docs" / "operations.md").read_text()

    def names(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                if not name.startswith("12D3KooW"):
                    yield name
                yield from names(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)

    status = read_status(finished_run.homes[0])
    for name in set(names({key: value for key, value in status.items() if key not in ("finished_rounds", "refused")})):
        assert f"`{name}`" in explained, name
    for name in {"finished_rounds", "refused", *status["finished_rounds"][-1]}:
        assert f"`{name}`" in explained, name
