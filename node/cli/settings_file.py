"""The settings file of `--config`: TOML with options by their names, checked whole before any command runs."""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from node.errors import ConfigError


def load_settings(context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    """Reads a TOML settings file into click's defaults, which flags and the environment override.

    Keys are option names with `_` or `-`; a table named after a command applies to that command alone.
    """
    if value is None:
        return None
    try:
        settings = tomllib.loads(value.read_text())
    except FileNotFoundError as error:
        raise click.BadParameter(f"there is no settings file at {value}") from error
    except OSError as error:
        raise click.BadParameter(f"{value} cannot be read ({error.strerror}): name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not valid TOML: {error}") from error
    try:
        context.default_map = defaults_of(settings, context.command)
    except ConfigError as error:
        raise click.BadParameter(f"{value}: {error}") from error
    return value


def defaults_of(settings: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """A settings file as click's nested defaults. ConfigError names what no command would take notice of."""
    return _defaults(settings, {}, command, ())


def _defaults(
    table: Mapping[str, Any], general: Mapping[str, Any], command: click.Command, path: tuple[str, ...]
) -> dict[str, Any]:
    """The defaults of a command and of those below it, from its table and from what the tables around it say."""
    commands = _commands(command)
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name in tables:
        if name not in commands:
            raise ConfigError(f"[{'.'.join((*path, name))}] is the table of no command{_meant(name, commands, path)}")
    settings = {**general, **_named(table, command, path)}
    defaults: dict[str, Any] = {
        str(option.name): _as_typed(name, settings[name], option, path)
        for name, option in _options(command).items()
        if name in settings
    }
    for name, below in commands.items():
        defaults[name] = _defaults(tables.get(name, {}), settings, below, (*path, name))
    return defaults


def _named(table: Mapping[str, Any], command: click.Command, path: tuple[str, ...]) -> dict[str, Any]:
    """The values of a table by the options' names. ConfigError for one that no command of the table has."""
    commands, known, named = _commands(command), _names(command), dict[str, Any]()
    for key, value in table.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            continue
        if name not in known and key in commands:
            raise ConfigError(f"{key!r} is a command: write its options into a table, [{'.'.join((*path, key))}]")
        if name not in known:
            raise ConfigError(f"{_whose(path)} has an option {key!r}{_meant(name, known, path)}")
        if name in named:
            raise ConfigError(f"the option {key!r} is given twice, with a dash and with an underscore: leave one out")
        named[name] = value
    return named


def _as_typed(name: str, value: Any, option: click.Option, path: tuple[str, ...]) -> str | list[str]:
    """A value as somebody would type it, so that it is read as strictly as on the command line."""
    where = f"--{name} of {_program(path)}"
    if option.multiple:
        return [_text(where, each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise ConfigError(f"{where} takes one value, not {value}: put a list into the table of the command it is for")
    return _text(where, value)


def _text(where: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where} is a text, a number, true or false, not {value}")


def _commands(command: click.Command) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: below for name, below in found.items() if below is not None}


def _options(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their names, as `quorum-timeout`; without what only makes sense on the command line."""
    return {
        text.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value
        for text in option.opts
        if text.startswith("--")
    }


def _names(command: click.Command) -> set[str]:
    """The names of all options of a command and of those below it."""
    return set(_options(command)).union(*(_names(below) for below in _commands(command).values()))


def _program(path: tuple[str, ...]) -> str:
    return " ".join(("fl-node", *path))


def _whose(path: tuple[str, ...]) -> str:
    return f"nothing in `{_program(path)}`" if path else "no command"


def _meant(name: str, known: Iterable[str], path: tuple[str, ...]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    return f": did you mean {close[0]}?" if close else f": see {_program(path)} --help"
