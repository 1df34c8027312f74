"""A settings file gives options by the names that they have on the command line, and is checked whole."""

import tomllib

import click
import pytest
from click.testing import CliRunner

from node.cli.app import cli
from node.cli.settings_file import defaults_of
from node.errors import ConfigError
from tests.cli.test_docs import ALL


@click.group()
@click.option("--config", is_eager=True, expose_value=False)
@click.option("--verbose", "-v", count=True)
def program(verbose): ...


@program.command()
@click.option("--session", "session_path", required=True)
@click.option("--quorum-timeout", "quorum_s", type=float)
@click.option("--peers", multiple=True)
@click.option("--threads", type=int)
@click.option("--mdns/--no-mdns", default=True)
def start(**given):
    click.echo(repr(given))


@program.group()
def session(): ...


@session.command("create")
@click.option("--epsilon", type=float)
@click.option("--peers", "bootstrap", multiple=True)
@click.option("--seed", type=int)
def create(**given):
    click.echo(repr(given))


@session.command("show")
@click.argument("file")
def show(file): ...


def defaults(text):
    return defaults_of(tomllib.loads(text), program)


def refusal(text):
    with pytest.raises(ConfigError) as refused:
        defaults(text)
    return str(refused.value)


@pytest.mark.parametrize("name", ["quorum-timeout", "quorum_timeout"])
@pytest.mark.parametrize("table", ["", "[start]\n"])
def test_an_option_has_its_own_name_with_dashes_or_underscores(name, table):
    assert defaults(f"{table}{name} = 5")["start"] == {"quorum_s": "5"}


def test_an_option_that_is_named_as_a_group_of_commands():
    assert defaults('session = "s.toml"')["start"] == {"session_path": "s.toml"}


def test_a_table_of_a_command_goes_before_what_is_for_all():
    given = defaults('peers = ["a"]\nseed = 1\n[start]\npeers = ["b", "c"]\n[session.create]\nseed = 2')
    assert given["start"] == {"peers": ["b", "c"]}
    assert given["session"]["create"] == {"bootstrap": ["a"], "seed": "2"}


def test_options_before_the_command_and_one_value_of_an_option_that_takes_several():
    given = defaults('verbose = 2\npeers = "a"')
    assert given["verbose"] == "2"
    assert given["start"]["peers"] == ["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hoem = 1", ("'hoem'", "no command", "fl-node --help")),
        ("quorum_s = 5", ("'quorum_s'",)),
        ('file = "s.toml"', ("'file'",)),  # an argument, not an option
        ('config = "other.toml"', ("'config'",)),
        ("[start]\nquorum-timeuot = 5", ("'quorum-timeuot'", "fl-node start", "did you mean quorum-timeout?")),
        ("[session.create]\nepsilom = 3", ("'epsilom'", "fl-node session create", "did you mean epsilon?")),
        ("[session]\nthreads = 3", ("'threads'", "fl-node session")),
        ('[strat]\npeers = ["x"]', ("[strat]", "did you mean start?")),
        ('[session.craete]\npeers = ["x"]', ("[session.craete]", "did you mean create?")),
        ("[start.peers]\na = 1", ("[start.peers]",)),
        ("[peers]\na = 1", ("[peers]",)),
        ("start = 5", ("'start'", "[start]")),
        ("[session]\ncreate = 5", ("'create'", "[session.create]")),
        ("quorum-timeout = 5\nquorum_timeout = 6", ("quorum_timeout", "twice")),
        ("seed = [1, 2]", ("seed", "one value", "fl-node session create")),
        ("seed = 2026-11-22", ("seed", "2026-11-22")),
        ("peers = [[1]]", ("peers", "[1]")),
    ],
)
def test_what_nobody_would_take_notice_of_is_refused(text, words):
    said = refusal(text)
    for word in words:
        assert word in said


def test_values_are_read_as_on_the_command_line():
    def run(text, *arguments):
        return CliRunner().invoke(program, arguments, default_map=defaults(text))

    given = run('session = "s"\n[start]\nquorum-timeout = 5\nmdns = false', "start")
    assert "'quorum_s': 5.0" in given.output
    assert "'mdns': False" in given.output
    assert "not a valid integer" in run('session = "s"\nthreads = 2.7', "start").output
    assert "not a valid integer" in run('session = "s"\nthreads = true', "start").output


@pytest.mark.real
def test_every_option_of_every_command_can_be_set_by_its_name():
    settings = {}
    for path, command in ALL.items():
        table = settings
        for name in path:
            table = table.setdefault(name, {})
        table.update({option.opts[0].removeprefix("--"): "1" for option in options_of(command)})
    found = defaults_of(settings, cli)
    for path, command in ALL.items():
        given = found
        for name in path:
            given = given[name]
        assert set(given) == {option.name for option in options_of(command)}, path


def options_of(command):
    return [each for each in command.params if isinstance(each, click.Option)]


@pytest.mark.real
def test_a_settings_file_that_is_none(tmp_path):
    for path, word in ((tmp_path, "directory"), (tmp_path / "none.toml", "no settings file"), ("s" * 300, "too long")):
        result = CliRunner().invoke(cli, ["--config", str(path), "status"])
        assert result.exit_code == 2, result.output
        assert word in result.stderr
