"""Files that a command writes where an option says; whether it can is found out before the work."""

import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from node.errors import ConfigError


def require_writable(path: Path, option: str) -> None:
    """Raises ConfigError, before hours of work, where `path` could not be written; what it holds stays until then."""
    new = not os.path.lexists(path)
    _write(path, "a", "", option)
    if new:
        path.unlink()


def require_apart(files: Mapping[str, Path | None]) -> None:
    """Raises ConfigError where two options name the same file, of which the one would overwrite the other."""
    given = {option: path.resolve() for option, path in files.items() if path is not None and str(path) != "-"}
    for (one, path), (other, same) in combinations(given.items(), 2):
        if path == same:
            raise ConfigError(f"{one} and {other} are the same file, {path}: give one of them another")


def write_text(path: Path, text: str, option: str) -> None:
    """Replaces what the file holds. Raises ConfigError if it can't be written."""
    _write(path, "w", text, option)


def _write(path: Path, mode: str, text: str, option: str) -> None:
    try:
        with path.open(mode) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror}): give another {option}") from error
