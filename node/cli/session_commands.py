"""`fl-node session create|show|verify`: session files. The rest of the group is in `membership_commands`."""

import os
from pathlib import Path
from typing import Any, get_args

import click
import trio

from node.agreement import create_session, open_session, read_session_file
from node.cli.membership_commands import admit, leave, rejoin, remove
from node.cli.options import (
    Finite,
    home_option,
    ipfs_option,
    passphrase_option,
    rpc_option,
    sources_option,
    split,
    ways,
)
from node.cli.outputs import require_writable
from node.cli.passphrase import read_passphrase
from node.cli.result import Result, answers
from node.cli.unused_options import CHOICES, require_use
from node.config import Privacy, Rule, Session, config_hash
from node.errors import ConfigError, SessionFileError
from node.home import open_home
from node.learning.splits import SPLITS
from node.network.addresses import parse_peer_address
from node.sources import session_cid
from node.wishes import CoordinationWishes, Wishes

RULES = get_args(Rule)
PRIVATE = ("epsilon", "delta", "clip", "noise_multiplier", "sample_rate", "private_learning_rate", "accountant")


@click.group()
def session() -> None:
    """Make, read and check session files; say who belongs to a session."""


for membership in (admit, remove, leave, rejoin):
    session.add_command(membership)


@session.command("create")
@home_option
@passphrase_option
@rpc_option(required=True)
@click.option("--task", required=True, help="A built-in task (mnist-softmax, …) or FILE.py:NAME.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The session file to write."
)
@click.option("--contract", help="The ledger contract to use; without it a new one is deployed.")
@click.option("--name", default="", help="A name for people.")
@click.option(
    "--members",
    default=4,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Shares to cut a common data set into.",
)
@click.option("--split", default="iid", show_default=True, help=f"{SPLITS}.")
@click.option(
    "--data",
    default="own",
    show_default=True,
    type=click.Choice(["own", "served"]),
    help="Served: the coordinator cuts its data set and gives each worker a part.",
)
@click.option("--stratified", is_flag=True, help="The same as --split stratified: each class in equal parts.")
@click.option(
    "--split-bytes",
    default=2**30,
    show_default=True,
    type=click.IntRange(1, 2**40),
    help="Largest part, with --data served.",
)
@click.option(
    "--cohort", default=5, show_default=True, type=click.IntRange(1, 1024), help="Peers asked in a round of gossip."
)
@click.option(
    "--quorum", show_default="2, or 1 of one member, or what --faulty needs", type=click.IntRange(1, 65535),
    help="Members present before round 1; with a coordinator, updates that close a round. At most --members.",
)  # fmt: skip
@click.option("--codec", default="float32", show_default=True, help="How updates are encoded.")
@click.option("--objective", default="common", show_default=True, type=click.Choice(["common", "personal"]))
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="For everything that is random; drawn if not given.")
@click.option(
    "--snapshot-every",
    default=5,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Rounds between snapshots.",
)
@click.option(
    "--replicas", default=2, show_default=True, type=click.IntRange(1, 64),
    help="Members who keep each recorded snapshot, its owner among them; 1: nobody but the owner.",
)  # fmt: skip
@click.option(
    "--staleness", default=2, show_default=True, type=click.IntRange(0, 100), help="Oldest update, in rounds."
)
@click.option(
    "--round-deadline",
    "round_deadline_s",
    default=60.0,
    show_default=True,
    type=Finite(0, 86_400, min_open=True),
    help="Longest wait for peers, seconds.",
)
@click.option("--topology", default="gossip", show_default=True, type=click.Choice(["gossip", "coordinated"]))
@click.option("--update", default="parameters", show_default=True, type=click.Choice(["parameters", "gradients"]))
@click.option(
    "--maximum", type=click.IntRange(1, 65_535), show_default="--members with --data served, else 65535",
    help="Places for workers of a coordinated session; who leaves keeps its place.",
)  # fmt: skip
@click.option(
    "--accumulate", default=1, show_default=True, type=click.IntRange(1, 1_000_000), help="Batches of a gradient."
)
@click.option("--momentum", default=0.9, show_default=True, type=Finite(0, 1, max_open=True), help="Of the rule sgd.")
@click.option("--schedule", default="constant", show_default=True, type=click.Choice(["constant", "cosine"]))
@click.option("--coordinator", help="The coordinator's account, 0x…; default: yours.")
@click.option("--rule", default="fedavg", show_default=True, type=click.Choice(RULES), help="How updates are averaged.")
@click.option(
    "--faulty", default=0, show_default=True, type=click.IntRange(0, 65_535),
    help="Bad updates that trimmed_mean, krum, multi_krum or clipping expects. The quorum is then at least twice "
    "as many and 1, with krum and multi_krum 3.",
)  # fmt: skip
@click.option("--proximal", default=0.01, show_default=True, type=Finite(0, 1e6), help="The mu of fedprox.")
@click.option(
    "--server-rate",
    default=0.01,
    show_default=True,
    type=Finite(0, 1e3, min_open=True),
    help="Of fedadam, fedyogi, fedadagrad, sgd and adam.",
)
@click.option(
    "--late", default="weight", show_default=True, type=click.Choice(["weight", "drop"]),
    help="Late updates: weigh them less by their lag, or drop them. The median, trimmed_mean, krum, multi_krum, "
    "geometric_median and clipping count one, up to --staleness, like any other, unless they are dropped.",
)  # fmt: skip
@click.option(
    "--deadline-spread",
    default=4.0,
    show_default=True,
    type=Finite(0, 1000),
    help="Deadline: median round trip + so many MADs.",
)
@click.option("--balance/--no-balance", default=True, show_default=True, help="Ask slow workers for fewer steps.")
@click.option(
    "--election", "election_s", default=0.0, show_default=True, type=Finite(0, 1e7),
    help="Seconds without a coordinator after which the next member takes over; 0: never.",
)  # fmt: skip
@click.option(
    "--metric", default="", help="End early by this metric of the coordinator: accuracy or loss, if the task has it."
)
@click.option("--target", type=Finite(), help="End when the metric has reached this value (accuracy: a fraction).")
@click.option(
    "--plateau",
    default=0,
    type=click.IntRange(0, 1_000_000),
    help="End when the metric got no better for so many rounds.",
)
@click.option(
    "--epsilon", type=Finite(0, 4294, min_open=True),
    help="Members train by DP-SGD, and spend at most this on an example in all rounds together.",
)  # fmt: skip
@click.option(
    "--delta", type=Finite(0, 1, min_open=True, max_open=True),
    help="Of the privacy budget, below 1 / examples of a member; default: 1e-5.",
)  # fmt: skip
@click.option("--clip", type=Finite(0, 1e6, min_open=True), help="Norm of an example's gradient; default: 1.")
@click.option(
    "--noise-multiplier", type=Finite(0, 1e6, min_open=True),
    help="Noise / clipping norm; default: the least that makes the budget last for all rounds.",
)  # fmt: skip
@click.option(
    "--sample-rate", type=Finite(0, 1, min_open=True),
    help="Chance of an example to be in a private batch; default: the task's batch size / examples.",
)  # fmt: skip
@click.option(
    "--private-learning-rate", type=Finite(0, 1e6, min_open=True),
    help="Of DP-SGD, whose batches should be large and whose gradients are clipped; default: the task's.",
)  # fmt: skip
@click.option("--accountant", type=click.Choice(["prv", "rdp"]), help="Opacus' accountant; default: prv.")
@click.option("--admitted", is_flag=True, help="Only accounts that you admit may join.")
@click.option(
    "--sealed", is_flag=True, help="Encrypt snapshots, by a key that members get from each other; with --admitted."
)
@click.option("--experiment", is_flag=True, help="Members may misbehave on purpose (fl-node start --misbehave).")
@click.option("--peers", "bootstrap", multiple=True, help="Addresses where members meet, for the file.")
@click.option("--tracker", "trackers", multiple=True, help="Trackers where members find each other, for the file.")
@answers
def create(home: Path, passphrase_file: Path | None, out: Path, **choices: Any) -> Result:
    """Create a session on the ledger and write its file, to be handed out to the members.

    \b
    Example: fl-node session create --task mnist-softmax --rounds 10 \\
                 --rpc http://127.0.0.1:8545 --home a --out session.toml
             fl-node session create --task mnist-cnn --topology coordinated --members 8 --quorum 5 \\
                 --rpc http://127.0.0.1:8545 --home boss --out session.toml
             fl-node session create --task mnist-softmax --rounds 20 --epsilon 3 --delta 1e-5 --sample-rate 0.06 \\
                 --private-learning-rate 1 --rpc http://127.0.0.1:8545 --home a --out private.toml
    """
    require_use(choices)
    if choices.pop("stratified"):
        choices["split"] = "stratified"
    coordination = CoordinationWishes(**{name: choices.pop(name) for name in CHOICES})
    budget = privacy({name: choices.pop(name) for name in PRIVATE})
    if os.path.lexists(out):
        raise SessionFileError(f"{out} exists: choose another --out, a session file is never overwritten")
    require_writable(out, "--out")
    for way in ("bootstrap", "trackers"):
        choices[way] = tuple(str(parse_peer_address(text)) for text in split(choices[way]))
    place = open_home(home)
    wishes = Wishes(coordination=coordination, privacy=budget, **choices)
    content, opened = trio.run(create_session, place, read_passphrase(place, passphrase_file), wishes, out)
    answer = {
        **summary(opened.session, content),
        "session": f"{opened.session_id:016x}",
        "file": str(out),
        "cid": session_cid(content),
    }
    text = (
        f"session   {opened.session_id:016x} ({opened.session.name})\n"
        f"contract  {opened.ledger.address} on chain {opened.session.ledger.chain_id}\n"
        f"file      {out}: hand it out; members start with `fl-node start --session {out}`\n"
        f"cid       {session_cid(content)}: the same file, in IPFS"
    )
    if opened.session.sealed is not None:
        answer["session_key"] = str(place.session_key(opened.session_id))
        text += f"\nkey       {answer['session_key']}: for auditors; members get it from each other"
    return Result(answer, text)


@session.command("show")
@click.argument("file")
@ipfs_option
@sources_option
@answers
def show(file: str, ipfs: str | None, peers: tuple[str, ...]) -> Result:
    """Show a session file (a path, an http(s) URL or an IPFS CID) without asking the ledger.

    \b
    Example: fl-node session show session.toml
    """
    content, parsed = read_session_file(file, ways(ipfs, peers))
    return Result(summary(parsed, content), content.decode())


@session.command("verify")
@click.argument("file")
@rpc_option()
@ipfs_option
@sources_option
@answers
def verify(file: str, rpc: str | None, ipfs: str | None, peers: tuple[str, ...]) -> Result:
    """Check a session file (a path, an http(s) URL or an IPFS CID) against the ledger.

    \b
    Example: fl-node session verify session.toml --rpc http://127.0.0.1:8545
    """
    opened = open_session(file, rpc, ways=ways(ipfs, peers))
    answer = {**summary(opened.session, opened.content), "session": f"{opened.session_id:016x}"}
    answer |= {"state": opened.entry.state, "members": opened.entry.member_count, "valid": True}
    text = f"{file} is session {opened.session_id:016x}, {opened.entry.state}, {opened.entry.member_count} members"
    return Result(answer, text)


def privacy(chosen: dict[str, Any]) -> Privacy | None:
    """The [privacy] table of these options. ConfigError for some of them without a budget."""
    given = {name.removeprefix("private_"): value for name, value in chosen.items() if value is not None}
    if given and "epsilon" not in given:
        first = next(name for name, value in chosen.items() if value is not None)
        raise ConfigError(f"--{first.replace('_', '-')} without --epsilon: say how large the privacy budget is")
    return Privacy(**given) if given else None


def summary(session: Session, content: bytes) -> dict[str, Any]:
    """A session file as JSON, with its hash."""
    return {"config_hash": config_hash(content).hex(), **session.model_dump(mode="json")}
