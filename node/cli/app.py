"""The command `fl-node` and its subcommands."""

import logging
import os
import sys
from pathlib import Path

import click

from node.cli import demo, devnet, homes, ledger_commands, session_commands, simulate, start
from node.cli.options import load_settings
from node.cli.result import fail
from node.errors import NodeError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
@click.version_option(package_name="fl-node")
def cli(verbose: int) -> None:
    """Train one model together without an aggregator, with a log that an outsider can check.

    \b
    fl-node demo                 the whole of it on this machine
    fl-node COMMAND --help       each command with an example
    """
    set_up_logging(verbose)


for command in (
    homes.init,
    devnet.devnet,
    session_commands.session,
    start.start,
    homes.stop,
    homes.status,
    ledger_commands.history,
    ledger_commands.audit,
    simulate.simulate,
    demo.demo,
):
    cli.add_command(command)


def set_up_logging(verbose: int) -> None:
    """Logs go to standard error, quiet by default; libraries stay quiet until `-vv`."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("libp2p", "web3", "urllib3", "zeroconf", "matplotlib", "trio", "multiaddr"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL)


def main() -> None:
    """Runs the command line; the program ends here."""
    os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")
    try:
        cli(prog_name="fl-node")
    except NodeError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
