"""The command `fl-node` and its subcommands."""

import importlib
import os
import sys
from pathlib import Path

import click

from node.cli.logs import FORMATS, set_up_logging
from node.cli.result import fail
from node.cli.settings_file import load_settings
from node.errors import NodeError

COMMANDS = {  # in the order of use: name -> module of node.cli, imported when it is needed
    "demo": "demo",
    "devnet": "devnet",
    "init": "homes",
    "passphrase": "homes",
    "session": "session_commands",
    "start": "start",
    "tracker": "tracker",
    "status": "homes",
    "stop": "homes",
    "history": "ledger_commands",
    "audit": "ledger_commands",
    "snapshot": "snapshot_commands",
    "simulate": "simulate",
    "experiment": "experiment",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for: torch alone takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"node.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, from the first lines that stand here, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


SUMMARIES = {
    "demo": "Run real nodes on this machine: a chain, a session, a process per member, real MNIST.",
    "devnet": "Run a local Ethereum chain until Ctrl-C; gas is free on it.",
    "init": "Make a node's home: a libp2p identity and an Ethereum account.",
    "passphrase": "Change the passphrase of a home's keystore.",
    "session": "Make, read and check session files; say who belongs to a session.",
    "start": "Join a session and take part in it: train, exchange, mix, record.",
    "tracker": "Run a small directory where members find each other, until Ctrl-C.",
    "status": "Show what a node is doing: round, accuracy, peers, bytes, records.",
    "stop": "Stop a running node in an orderly way.",
    "history": "Show a session's records, members and trust from the ledger.",
    "audit": "Check a session's log and replay its mixing steps, without a node or a key.",
    "snapshot": "List, show, get, pin and release the snapshots that a node keeps in IPFS.",
    "simulate": "Run many virtual members in one process, from the node's own functions.",
    "experiment": "Measure what the node's parts achieve: privacy against accuracy against epsilon.",
}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    envvar="FL_NODE_CONFIG",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=load_settings,
    help="A TOML file with settings; flags and FL_NODE_… variables override it.",
)
@click.option("--verbose", "-v", envvar="FL_NODE_VERBOSE", count=True, help="Log more; twice for everything.")
@click.option(
    "--log-format",
    envvar="FL_NODE_LOG_FORMAT",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How the log looks on standard error: lines, or a JSON object per line.",
)
@click.version_option(package_name="fl-node")
def cli(verbose: int, log_format: str) -> None:
    """Train one model together without an aggregator, with a log that an outsider can check.

    \b
    fl-node demo                 the whole of it on this machine
    fl-node COMMAND --help       each command with an example
    """
    set_up_logging(verbose, log_format)


INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended


def main() -> None:
    """Runs the command line; the program ends here. Nothing but a verdict ends it with 1 (`audit`)."""
    os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")
    as_json = "--json" in sys.argv[1:]
    try:
        sys.exit(cli(prog_name="fl-node", standalone_mode=False))
    except NodeError as error:
        fail(str(error))
    except click.ClickException as error:
        if as_json:
            fail(error.format_message(), as_json)
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        if as_json:
            fail("interrupted", as_json, INTERRUPTED)
        sys.exit(INTERRUPTED)
