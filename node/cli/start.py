"""`fl-node start`: one node, from its first check to its last record."""

import os
from pathlib import Path
from typing import Any

import click
import trio

from node.cli.options import (
    ByteSize,
    Finite,
    Seconds,
    data_option,
    home_option,
    ipfs_option,
    metrics_options,
    passphrase_option,
    rpc_option,
    session_key_option,
    session_option,
    split,
    ways,
)
from node.cli.passphrase import read_passphrase
from node.cli.result import Result, answers, note
from node.daemon.run import Outcome, run_node
from node.daemon.settings import StartSettings
from node.errors import ConfigError
from node.home import Home, open_home
from node.network.addresses import parse_address, parse_peer_address
from node.storage import parse_retention


@click.command()
@session_option
@home_option
@passphrase_option
@rpc_option()
@ipfs_option
@data_option
@click.option(
    "--listen",
    envvar="FL_NODE_LISTEN",
    multiple=True,
    default=("/ip4/0.0.0.0/tcp/0",),
    show_default=True,
    help="Multiaddr to listen on; port 0 chooses a free one.",
)
@click.option(
    "--peers", envvar="FL_NODE_PEERS", multiple=True, help="Multiaddr of a peer, with /p2p/; may be repeated."
)
@click.option(
    "--tracker",
    "trackers",
    envvar="FL_NODE_TRACKER",
    multiple=True,
    help="Multiaddr of a tracker besides the session's own; may be repeated.",
)
@click.option(
    "--relay",
    "relays",
    envvar="FL_NODE_RELAY",
    multiple=True,
    help="Multiaddr of a relay through which others can dial this node, if it is behind a NAT; may be repeated.",
)
@click.option(
    "--hole-punching",
    envvar="FL_NODE_HOLE_PUNCHING",
    is_flag=True,
    help="With --relay: get from relayed connections to direct ones by punching holes through both NATs.",
)
@click.option("--mdns/--no-mdns", envvar="FL_NODE_MDNS", default=True, show_default=True, help="Find peers nearby.")
@click.option(
    "--dht/--no-dht",
    envvar="FL_NODE_DHT",
    default=False,
    show_default=True,
    help="Find members in the distributed directory, through any fl-node named by --peers.",
)
@click.option("--publish", envvar="FL_NODE_PUBLISH", is_flag=True, help="Put the addresses of this node on the ledger.")
@metrics_options
@click.option("--task", envvar="FL_NODE_TASK", help="The session's task, if it is your own: FILE.py:NAME.")
@click.option("--share", type=click.IntRange(0), help="Which share of a common data set is mine (default: my index).")
@click.option(
    "--threads",
    envvar="FL_NODE_THREADS",
    default=0,
    type=click.IntRange(0, 1024),
    help="Threads for training; 0: all cores but one.",
)
@click.option(
    "--device",
    envvar="FL_NODE_DEVICE",
    default="auto",
    show_default=True,
    help="What trains: auto (a GPU if there is one), cpu, cuda, cuda:N or mps. Mixing stays on the CPU.",
)
@click.option(
    "--role",
    type=click.Choice(["coordinator", "worker"]),
    help="Refuse to start as anything else; the session file says who coordinates.",
)
@click.option(
    "--throttle",
    "throttle_s",
    default=0.0,
    type=Finite(0, 3600),
    help="Take at least so many seconds for each training step of a coordinated session, as a slow machine would.",
)
@click.option(
    "--keep-snapshots",
    envvar="FL_NODE_KEEP_SNAPSHOTS",
    default="all",
    show_default=True,
    help="Own snapshots to keep: all, last:N, every:K, or last:N,every:K. No audit can replay a round without them.",
)
@click.option(
    "--snapshot-disk",
    envvar="FL_NODE_SNAPSHOT_DISK",
    type=ByteSize(),
    help="Bytes for snapshots, as 2GiB; a round whose snapshot does not fit has none, with a warning.",
)
@session_key_option
@click.option(
    "--replica-patience",
    "replica_patience_s",
    envvar="FL_NODE_REPLICA_PATIENCE",
    default=300.0,
    show_default=True,
    type=Seconds(1),
    help="Seconds that a member may be away before others keep the snapshots that it should keep.",
)
@click.option(
    "--replicate-timeout",
    "replicate_s",
    default=20.0,
    show_default=True,
    type=Seconds(),
    help="Seconds at the end for others to copy the last snapshots.",
)
@click.option(
    "--older-snapshot",
    is_flag=True,
    help="With a home that lost its state: go on from an older snapshot if the newest is not to be had.",
)
@click.option("--misbehave", help="Attack the session, if it is an experiment: sign_flip, label_flip, alie, …")
@click.option(
    "--confirmations",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Blocks until a record counts as there.",
)
@click.option(
    "--quorum-timeout",
    "quorum_s",
    default=600.0,
    show_default=True,
    type=Seconds(),
    help="Seconds to wait for the quorum.",
)
@click.option(
    "--linger",
    "linger_s",
    default=120.0,
    show_default=True,
    type=Seconds(),
    help="Seconds to serve slower members at the end.",
)
@click.option(
    "--stop-timeout",
    "stop_s",
    default=20.0,
    show_default=True,
    type=Seconds(),
    help="Seconds for the round in flight at a stop.",
)
@click.option(
    "--flush-timeout", "flush_s", default=60.0, show_default=True, type=Seconds(), help="Seconds for the last records."
)
@answers
def start(
    home: Path,
    session_path: str,
    passphrase_file: Path | None,
    metrics_host: str,
    metrics_port: int | None,
    **choices: Any,
) -> Result:
    """Join a session and take part in it: train, exchange, mix, record.

    \b
    Example: fl-node start --session session.toml --home a --listen /ip4/0.0.0.0/tcp/4001
             fl-node start --session session.toml --home b --peers /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
             fl-node start --session https://example.org/session.toml --home c
    """
    os.umask(0o077)  # what a node writes is the operator's alone
    place: Home = open_home(home)
    choices["listen"] = tuple(parse_address(text) for text in split(choices["listen"]))
    for way in ("peers", "trackers", "relays"):
        choices[way] = tuple(str(parse_peer_address(text)) for text in split(choices[way]))
    if not choices["listen"]:
        raise ConfigError("nothing to listen on: pass --listen /ip4/0.0.0.0/tcp/0")
    if choices["hole_punching"] and not choices["relays"]:
        raise ConfigError(
            "--hole-punching needs a relay, through which members agree when to dial: pass --relay ADDRESS too"
        )
    choices["keep_snapshots"] = parse_retention(choices["keep_snapshots"])
    if choices["ipfs"] is not None and choices["snapshot_disk"] is not None:
        raise ConfigError(
            "--snapshot-disk is for the embedded store: limit Kubo with Datastore.StorageMax, or leave it out"
        )
    metrics = None if metrics_port is None else (metrics_host, metrics_port)
    passphrase = read_passphrase(place, passphrase_file)
    reach = ways(choices["ipfs"], choices["peers"])
    settings = StartSettings(place, session_path, passphrase, reach=reach, metrics=metrics, **choices)
    return shown(trio.run(run_node, settings, note))


def shown(outcome: Outcome | None) -> Result:
    """How a node ended; None: by a signal, before it took part."""
    if outcome is None:
        unknown = dict.fromkeys(("finished_round", "rounds", "records", "records_pending"))
        return Result({**unknown, "stopped": True}, "stopped before the rounds began")
    fields = {
        "finished_round": outcome.finished_round,
        "rounds": outcome.rounds,
        "records": outcome.records_confirmed,
        "records_pending": outcome.records_pending,
        "stopped": outcome.stopped,
    }
    text = f"round {outcome.finished_round} of {outcome.rounds}, {outcome.records_confirmed} records on the chain" + (
        f", {outcome.records_pending} waiting" if outcome.records_pending else ""
    )
    return Result(fields, text)
