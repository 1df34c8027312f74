"""The keystore's passphrase: from a file, the environment or a prompt; never from a flag, never in a log."""

import os
import secrets
import sys
from pathlib import Path

import click

from node.cli.result import note
from node.errors import ConfigError
from node.files import write_atomically
from node.home import Home

ENVIRONMENT, NEW_ENVIRONMENT = "FL_NODE_PASSPHRASE", "FL_NODE_NEW_PASSPHRASE"
LIMIT = 4096


def read_passphrase(home: Home, file: Path | None) -> str:
    """The passphrase of an existing keystore. ConfigError says where it was looked for."""
    if found := given_passphrase(file):
        return found
    if home.passphrase.is_file():
        return _read(home.passphrase)
    if sys.stdin.isatty():
        return str(click.prompt("Passphrase of the keystore", hide_input=True, err=True))
    raise ConfigError(
        f"no passphrase for {home.keystore}: pass --passphrase-file FILE, set {ENVIRONMENT}, or put it into "
        f"{home.passphrase} (mode 0600)"
    )


def new_passphrase(home: Home, file: Path | None) -> str:
    """The passphrase for a new keystore: a given one, the one that lies in the home, one that is asked for.

    Without a terminal, a random one that is kept in the home (mode 0600).
    """
    if found := given_passphrase(file):
        return found
    if home.passphrase.exists():
        note(f"the keystore's passphrase is the one in {home.passphrase}")
        return _read(home.passphrase)
    if sys.stdin.isatty():
        return str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))
    invented = secrets.token_urlsafe(24)
    write_atomically(home.passphrase, invented.encode() + b"\n")
    note(f"no passphrase was given: a random one is in {home.passphrase} (only you can read it)")
    return invented


def changed_passphrase(file: Path | None) -> str:
    """The passphrase that takes another one's place. ConfigError says where it was looked for."""
    if file is not None:
        return _read(file)
    if found := os.environ.get(NEW_ENVIRONMENT):
        return found
    if sys.stdin.isatty():
        return str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))
    raise ConfigError(f"no new passphrase: pass --new-passphrase-file FILE, or set {NEW_ENVIRONMENT}")


def given_passphrase(file: Path | None) -> str | None:
    """The passphrase from the named file or the environment, if there is one."""
    if file is not None:
        return _read(file)
    return os.environ.get(ENVIRONMENT) or None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"the passphrase file {file} cannot be read: {error.strerror}") from error
    if len(text) > LIMIT:
        raise ConfigError(f"the passphrase file {file} is longer than {LIMIT} bytes: is it the right file?")
    try:
        passphrase = text.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the passphrase file {file} is not text: write the passphrase as UTF-8") from error
    if not passphrase:
        raise ConfigError(f"the passphrase file {file} is empty: write the passphrase into it")
    return passphrase
