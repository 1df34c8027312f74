"""`fl-node tracker`: the small directory where members of sessions announce themselves and find each other."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import trio

from node.cli.options import Finite, Seconds, home_option, metrics_options, split
from node.cli.result import Result, answers, note
from node.errors import ConfigError, HomeError
from node.files import write_atomically
from node.home import Home, holds, lock_home
from node.network.addresses import parse_address
from node.network.identity import Identity, create_identity, load_identity
from node.network.metrics_page import metrics_page
from node.network.registrations import TrackerRules
from node.network.relaying import Relay
from node.network.tracker import Tracker, run_tracker
from node.network.tracker_metrics import bytes_per_member_hour

WRITE_S = 1.0


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """What the operator chose."""

    home: Home
    listen: tuple[str, ...]
    rules: TrackerRules
    metrics: tuple[str, int] | None
    relay: bool


@click.command()
@home_option
@click.option(
    "--listen",
    envvar="FL_NODE_LISTEN",
    multiple=True,
    default=("/ip4/0.0.0.0/tcp/4010",),
    show_default=True,
    help="Multiaddr to listen on; port 0 chooses a free one.",
)
@click.option("--max-sessions", default=1024, show_default=True, type=click.IntRange(1), help="Sessions at a time.")
@click.option(
    "--max-members", default=4096, show_default=True, type=click.IntRange(1), help="Members per session, and connected."
)
@click.option(
    "--rate",
    default=2.0,
    show_default=True,
    type=Finite(0, 1e6, min_open=True),
    help="Requests a second, per peer.",
)
@click.option(
    "--longest",
    default=7200.0,
    show_default=True,
    type=Seconds(120),
    help="Seconds of a registration, at most.",
)
@click.option("--relay", is_flag=True, help="Also relay for nodes behind NATs (libp2p's circuit relay v2).")
@metrics_options
@answers
def tracker(
    home: Path, listen: tuple[str, ...], metrics_host: str, metrics_port: int | None, relay: bool, **limits: Any
) -> Result:
    """Run a directory where members find each other, until Ctrl-C. It needs no account and carries no update.

    \b
    Example: fl-node tracker --home tracker --listen /ip4/0.0.0.0/tcp/4010
             fl-node tracker --home tracker --relay
             fl-node session create --tracker /ip4/192.0.2.7/tcp/4010/p2p/12D3KooW… …
    """
    os.umask(0o077)
    addresses = tuple(parse_address(text) for text in split(listen))
    if not addresses:
        raise ConfigError("nothing to listen on: pass --listen /ip4/0.0.0.0/tcp/4010")
    rules = TrackerRules(
        max_namespaces=limits["max_sessions"],
        max_members=limits["max_members"],
        per_second=limits["rate"],
        longest=limits["longest"],
    )
    metrics = None if metrics_port is None else (metrics_host, metrics_port)
    place = Home(home)
    identity = own_identity(place)
    fields = trio.run(run, identity, TrackerSettings(place, addresses, rules, metrics, relay))
    return Result(fields, f"answered {fields['announces']} announces and {fields['look_ups']} look-ups")


def own_identity(home: Home) -> Identity:
    """The identity in a home; a new one in a new home."""
    if holds(home, home.identity):
        return load_identity(home.identity)
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(f"{home.path} cannot be made a directory: {error.strerror}; choose another --home") from error
    return create_identity(home.identity)


async def run(identity: Identity, settings: TrackerSettings) -> dict[str, Any]:
    """Runs until a signal; what it did."""
    with lock_home(settings.home), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(run_tracker(identity, settings.listen, settings.rules))
            if settings.relay:
                running.relay = Relay(running.running.host, tally=running.running.tally)
            about: dict[str, Any] = {
                "peer_id": identity.peer_id,
                "addresses": [f"{address}/p2p/{identity.peer_id}" for address in running.running.addresses],
                "metrics_url": None,
            }
            for address in about["addresses"]:
                note(f"listening on {address}")
            if settings.metrics is not None:
                page = await stack.enter_async_context(
                    metrics_page(*settings.metrics, running.metrics, running.running.tally)
                )
                about["metrics_url"] = page.url
                note(f"metrics at {page.url}")
            await follow(settings.home, running, about, signals)
            return {**about, **numbers(running)}
    raise AssertionError("unreachable")


async def follow(home: Home, running: Tracker, about: dict[str, Any], signals: AsyncIterator[int]) -> None:
    """Keeps `status.json` up to date until the first signal."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep_writing, home, running, about)
        number = await anext(signals)
        note(f"{signal.Signals(number).name}: ending")
        nursery.cancel_scope.cancel()
    write(home, {**about, **numbers(running), "state": "stopped"})


async def _keep_writing(home: Home, running: Tracker, about: dict[str, Any]) -> None:
    while True:
        write(home, {**about, **numbers(running), "state": "tracker"})
        await trio.sleep(WRITE_S)


def write(home: Home, status: dict[str, Any]) -> None:
    """Replaces `status.json`."""
    write_atomically(home.status, json.dumps(status).encode(), durable=False)


def numbers(running: Tracker) -> dict[str, Any]:
    """What the tracker has done so far."""
    counts = running.counts
    running.tally()
    traffic = running.running.traffic.traffic().values()
    return {
        "members": running.directory.total(),
        "sessions": len(running.directory.namespaces()),
        "announces": counts.announces,
        "look_ups": counts.look_ups,
        "relayed": running.relay.carried if running.relay else None,
        "refused": dict(running.running.tally.counts),
        "bytes_in": sum(each.bytes_in for each in traffic),
        "bytes_out": sum(each.bytes_out for each in traffic),
        "bytes_per_member_hour": round(bytes_per_member_hour(counts, running.running)),
        "announce_ms": _mean_ms(counts.announce_seconds, counts.announces),
        "look_up_ms": _mean_ms(counts.look_up_seconds, counts.look_ups),
    }


def _mean_ms(seconds: float, count: int) -> float | None:
    return round(1000 * seconds / count, 3) if count else None
