"""`fl-node session admit|remove|leave|rejoin`: who belongs to a session, as the ledger says it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from eth_account.signers.local import LocalAccount
from eth_utils.address import is_address, to_checksum_address

from ledger import Receipt, load_keystore
from node.agreement import OpenSession, open_session
from node.cli.options import F, home_option, passphrase_option, rpc_option, session_option
from node.cli.passphrase import read_passphrase
from node.cli.result import Result, answers
from node.errors import ConfigError
from node.home import open_home

Doing = Callable[[OpenSession, LocalAccount], Receipt]


def who_options(command: F) -> F:
    """The session, and the home whose account says it."""
    return session_option(home_option(passphrase_option(rpc_option()(command))))


@click.command()
@click.argument("accounts", nargs=-1, required=True)
@who_options
@answers
def admit(accounts: tuple[str, ...], **who: Any) -> Result:
    """Let accounts join an admitted session, or removed members return; for its creator.

    \b
    Example: fl-node session admit 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed --session session.toml --home a
    """
    wanted = [_account(text) for text in accounts]
    return _say(who, wanted, "admitted", lambda opened, me: opened.ledger.admit(me, opened.session_id, wanted))


@click.command()
@click.argument("account")
@who_options
@answers
def remove(account: str, **who: Any) -> Result:
    """End a member's part in a session; for its creator. The member's records stay.

    \b
    Example: fl-node session remove 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed --session session.toml --home a
    """
    gone = _account(account)
    return _say(who, [gone], "removed", lambda opened, me: opened.ledger.remove(me, opened.session_id, gone))


@click.command()
@who_options
@answers
def leave(**who: Any) -> Result:
    """End the part of this home's account in a session; its records stay, and `rejoin` brings it back.

    \b
    Example: fl-node session leave --session session.toml --home b
    """
    return _say(who, [], "left", lambda opened, me: opened.ledger.leave(me, opened.session_id))


@click.command()
@who_options
@answers
def rejoin(**who: Any) -> Result:
    """Bring the account of this home back after `leave`, under its old index and key.

    \b
    Example: fl-node session rejoin --session session.toml --home b
    """
    return _say(who, [], "back", lambda opened, me: opened.ledger.rejoin(me, opened.session_id, ()))


def _say(who: dict[str, Any], accounts: list[str], what: str, do: Doing) -> Result:
    """Does it with the account of the home; the accounts that it is about, by default that one."""
    place = open_home(who["home"])
    opened = open_session(who["session_path"], who["rpc"])
    passphrase_file: Path | None = who["passphrase_file"]
    account = load_keystore(place.keystore, read_passphrase(place, passphrase_file))
    receipt = do(opened, account)
    about = accounts or [str(account.address)]
    fields = {"session": f"{opened.session_id:016x}", "accounts": about, "did": what, "block": receipt.block}
    return Result(fields, "\n".join(f"{each}  {what}, session {opened.session_id:016x}" for each in about))


def _account(text: str) -> str:
    if not is_address(text):
        raise ConfigError(
            f"{text[:80]!r} is no account: write 0x and 40 hexadecimal digits, as `fl-node init` prints it"
        )
    return str(to_checksum_address(text))
