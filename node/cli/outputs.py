"""Files that a command writes where an option says; whether it can is found out before the work."""

import os
from pathlib import Path

from node.errors import ConfigError


def require_writable(path: Path, option: str) -> None:
    """Raises ConfigError, before hours of work, where `path` could not be written; what it holds stays until then."""
    new = not os.path.lexists(path)
    _write(path, "a", "", option)
    if new:
        path.unlink()


def write_text(path: Path, text: str, option: str) -> None:
    """Replaces what the file holds. Raises ConfigError if it can't be written."""
    _write(path, "w", text, option)


def _write(path: Path, mode: str, text: str, option: str) -> None:
    try:
        with path.open(mode) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror}): give another {option}") from error
