"""Options that several commands share. Precedence: flags, environment (`FL_NODE_…`), settings file, defaults."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from node.sources import Ways

F = TypeVar("F", bound=Callable[..., Any])


def home_option(command: F) -> F:
    """`--home`: the node's directory."""
    return click.option(
        "--home",
        envvar="FL_NODE_HOME",
        default="fl-home",
        show_default=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="The node's directory: keys, records, snapshots.",
    )(command)


def rpc_option(required: bool = False) -> Callable[[F], F]:
    """`--rpc`: the Ethereum node."""
    return click.option(
        "--rpc",
        envvar="FL_NODE_RPC",
        required=required,
        help="URL of an Ethereum node, as http://127.0.0.1:8545.",
    )


def session_option(command: F) -> F:
    """`--session`: the session file."""
    return click.option(
        "--session",
        "session_path",
        envvar="FL_NODE_SESSION",
        required=True,
        help="The session file that the session's creator handed out: a path, an http(s) URL, or an IPFS CID.",
    )(command)


def session_key_option(command: F) -> F:
    """`--session-key`: the key of a sealed session."""
    return click.option(
        "--session-key",
        envvar="FL_NODE_SESSION_KEY",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A file with the key of a sealed session, from its creator; members get it from each other.",
    )(command)


def passphrase_option(command: F) -> F:
    """`--passphrase-file`: the keystore's passphrase, never on the command line itself."""
    return click.option(
        "--passphrase-file",
        envvar="FL_NODE_PASSPHRASE_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A file with the keystore's passphrase (else FL_NODE_PASSPHRASE, HOME/passphrase, or a prompt).",
    )(command)


def ipfs_option(command: F) -> F:
    """`--ipfs`: a Kubo daemon instead of the embedded store."""
    return click.option(
        "--ipfs",
        envvar="FL_NODE_IPFS",
        help="URL or multiaddr of a Kubo daemon's RPC, as http://127.0.0.1:5001; without it, the embedded store.",
    )(command)


def data_option(command: F) -> F:
    """`--data-dir`: one's own copy of a data set."""
    return click.option(
        "--data-dir",
        envvar="FL_NODE_DATA_DIR",
        type=click.Path(path_type=Path),
        help="A directory with the data set's files.",
    )(command)


def metrics_options(command: F) -> F:
    """`--metrics-port` and `--metrics-host`: a page for Prometheus."""
    host = click.option(
        "--metrics-host",
        envvar="FL_NODE_METRICS_HOST",
        default="127.0.0.1",
        show_default=True,
        help="Where the metrics can be read; there is no password.",
    )
    port = click.option(
        "--metrics-port",
        envvar="FL_NODE_METRICS_PORT",
        type=click.IntRange(0, 65535),
        help="Serve metrics for Prometheus at this port, /metrics; 0 chooses a free one. Without it there are none.",
    )
    return port(host(command))


def split(values: tuple[str, ...]) -> list[str]:
    """Options that may be repeated or hold several values separated by commas or blanks (in the environment)."""
    return [part for value in values for part in value.replace(",", " ").split()]


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class ByteSize(click.ParamType[int]):
    """A number of bytes, as 500MB, 2GiB or 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes; fails for anything that is no size, or is none at all."""
        found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) *([kmgt]?i?)b?", str(value).strip().lower())
        size = int(float(found[1]) * UNITS.get(found[2], 0)) if found else 0
        if size < 1:
            self.fail(f"{value!r} is no number of bytes: write 500MB, 2GiB or 1000000", param, ctx)
        return size


class Finite(click.FloatRange):
    """A number in a range, neither nan nor infinite, both of which Python would read."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails for anything else."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


LONGEST = 1e9  # seconds: more than anybody waits, and not too much for a clock


class Seconds(Finite):
    """A time to wait."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        super().__init__(least, LONGEST)


def sources_option(command: F) -> F:
    """`--peers`, for a session file that is a CID."""
    return click.option(
        "--peers", envvar="FL_NODE_PEERS", multiple=True, help="Multiaddr of a node that may have the file of a CID."
    )(command)


def ways(ipfs: str | None, peers: tuple[str, ...]) -> Ways:
    """How to reach a session file that is not on this machine."""
    from node.network.addresses import parse_peer_address

    named = [str(parse_peer_address(text)) for text in split(peers)]

    def ask(cid: bytes, seconds: float) -> bytes | None:
        from node.network.guest import fetch_block_as_guest  # libp2p behind it takes a second

        return trio.run(fetch_block_as_guest, cid, named, seconds)

    return Ways(ipfs, ask if named else None)
