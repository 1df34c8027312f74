"""What the creator of a session chooses, and what cannot be chosen: found before anything is sent or kept.

Whatever is wrong is a ConfigError that names the option, its value and the cure. Knows no chain and no home.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from node.config import (
    Aggregation,
    Contract,
    Convergence,
    Coordination,
    Initial,
    Limits,
    Meeting,
    Privacy,
    Session,
    Shares,
)
from node.errors import ConfigError
from node.learning.aggregation import OPTIMIZERS, USED_BY
from node.learning.builtin_tasks import BUILTIN_TASKS
from node.learning.codecs import codec
from node.learning.splits import require_split
from node.learning.task import Learner, Task

PLACES = 65_535  # of workers, where nobody says how many
NOWHERE = "0x" + 40 * "0"


@dataclass(frozen=True, slots=True)
class CoordinationWishes:
    """What the creator of a coordinated session chooses besides."""

    coordinator: str | None = None  # an account; None: the creator's
    maximum: int | None = None  # None: as many as there are served splits; without those PLACES
    accumulate: int = 1
    momentum: float = 0.9
    schedule: str = "constant"
    rule: str = "fedavg"
    faulty: int = 0
    proximal: float = 0.01
    server_rate: float = 0.01
    late: str = "weight"
    deadline_spread: float = 4.0
    balance: bool = True
    election_s: float = 0.0
    metric: str = ""
    target: float | None = None
    plateau: int = 0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the creator of a session chooses."""

    task: str
    rounds: int
    rpc: str
    contract: str | None = None  # None: deploy one
    name: str = ""
    members: int = 4
    split: str = "iid"
    data: str = "own"  # or served, by the coordinator
    split_bytes: int = 2**30
    cohort: int = 5
    quorum: int | None = None  # None: 2, or 1 of one member, or what a robust rule needs
    codec: str = "float32"
    objective: str = "common"
    seed: int | None = None
    snapshot_every: int = 5
    replicas: int = 2
    staleness: int = 2
    round_deadline_s: float = 60.0
    admitted: bool = False
    experiment: bool = False
    bootstrap: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    topology: str = "gossip"
    update: str = "parameters"
    coordination: CoordinationWishes | None = None  # None: the defaults, if the topology needs it
    privacy: Privacy | None = None
    sealed: bool = False


def require_possible(wishes: Wishes, creator: str) -> None:
    """Everything that can be wrong without a look at the task."""
    agreed_quorum(wishes)
    rules = coordination(wishes, creator)
    if codec(wishes.codec).depth and rules is not None:  # as is an unknown name
        raise ConfigError(
            f"codec {wishes.codec!r} sends differences, which workers that start from a new model each round cannot: "
            "choose float32, bfloat16 or int8, each also with +zstd"
        )
    if wishes.sealed and not wishes.admitted:
        raise ConfigError("--sealed without --admitted: anybody could join the session and get its key; pass both")
    if wishes.data == "served" or wishes.task in BUILTIN_TASKS:  # a task of one's own may know other splits
        require_split(wishes.split)


def draft(wishes: Wishes, learner: Learner, seed: int, creator: str) -> Session:
    """The agreement that these wishes make, without its initial parameters and the ledger's address."""
    size = codec(wishes.codec).size_limit(learner.spec)
    require_metric(wishes, learner.task)
    try:
        return Session(
            name=wishes.name or f"{learner.task.name}-{secrets.token_hex(2)}",
            creator=creator,
            task=learner.task.name,
            model_sha256=model_hash(learner),
            update=wishes.update,  # type: ignore[arg-type]  # pydantic checks it
            topology=wishes.topology,  # type: ignore[arg-type]  # pydantic checks it
            objective=wishes.objective,  # type: ignore[arg-type]  # pydantic checks it
            rounds=wishes.rounds,
            cohort=wishes.cohort,
            quorum=agreed_quorum(wishes),
            codec=wishes.codec,
            seed=seed,
            snapshot_every=wishes.snapshot_every,
            replicas=wishes.replicas,
            access="admitted" if wishes.admitted else "open",
            experiment=wishes.experiment,
            initial=Initial(cid="", sha256=64 * "0"),
            data=Shares(
                split=wishes.split,
                count=wishes.members,
                source=wishes.data,  # type: ignore[arg-type]  # pydantic checks it
                bytes=wishes.split_bytes,
            ),
            limits=Limits(
                payload_bytes=max(size, learner.spec.payload_size),
                staleness=wishes.staleness,
                round_deadline_s=wishes.round_deadline_s,
            ),
            ledger=Contract(chain_id=1, address=NOWHERE, rpc=wishes.rpc),
            peers=Meeting(bootstrap=wishes.bootstrap, trackers=wishes.trackers),
            coordinated=coordination(wishes, creator),
            privacy=wishes.privacy,
        )
    except ValidationError as error:
        raise in_our_words(error) from error


def agreed_quorum(wishes: Wishes) -> int:
    """How many members a round, or the first one of gossip, needs. ConfigError for more than there are."""
    if wishes.quorum is None:
        return min(max(2, _needed(wishes)), wishes.members)
    if wishes.quorum > wishes.members:
        raise ConfigError(
            f"--quorum {wishes.quorum} of {wishes.members} members never comes: choose --quorum {wishes.members} or "
            f"less, or --members {wishes.quorum} or more"
        )
    return wishes.quorum


def needed_updates(rule: str, faulty: int) -> int:
    """How many updates a robust rule needs in a round, so that so many bad ones among them do not decide it.

    Those of krum and multi_krum are what their proof asks for (Blanchard et al., 2017: 2f + 2 < n), the others' a
    majority. 1 for a rule that expects no bad ones.
    """
    if not faulty or rule not in USED_BY["faulty"]:
        return 1
    return 2 * faulty + _beyond(rule)


def _beyond(rule: str) -> int:
    """By how many updates there must be more than twice the bad ones."""
    return 3 if rule in ("krum", "multi_krum") else 1


def _needed(wishes: Wishes) -> int:
    chosen = wishes.coordination
    if chosen is None or wishes.topology != "coordinated":
        return 1
    return needed_updates(chosen.rule, chosen.faulty)


def _outvoting(rule: str, faulty: int) -> str:
    bad = "1 bad one" if faulty == 1 else f"{faulty} bad ones"
    return f"{rule} needs {needed_updates(rule, faulty)} updates to outvote {bad}"


def quorum_warning(session: Session) -> str:
    """For people: that so few updates close a round that bad ones may decide it, as files of before allow; or empty."""
    if session.coordinated is None:
        return ""
    rule, faulty = session.coordinated.aggregation.rule, session.coordinated.aggregation.faulty
    if session.quorum >= (needed := needed_updates(rule, faulty)):
        return ""
    return (
        f"the session's quorum is {session.quorum}: {_outvoting(rule, faulty)}, and rounds with fewer are theirs; "
        f"create a session with --quorum {needed} or more"
    )


def agreed_maximum(wishes: Wishes, chosen: CoordinationWishes) -> int:
    """How many workers have a place: of those who are served, no two the same split."""
    if wishes.data != "served":
        return PLACES if chosen.maximum is None else chosen.maximum
    if chosen.maximum is not None and chosen.maximum > wishes.members:
        raise ConfigError(
            f"--maximum {chosen.maximum} with --data served and {wishes.members} splits: workers would share some; "
            f"choose --maximum {wishes.members} or less, or --members {chosen.maximum} or more"
        )
    return wishes.members if chosen.maximum is None else chosen.maximum


def coordination(wishes: Wishes, creator: str) -> Coordination | None:
    """The [coordinated] table that these wishes make; None for a gossip session. ConfigError for what cannot be."""
    chosen = wishes.coordination or CoordinationWishes()
    _require_fit(wishes, chosen)
    if wishes.topology != "coordinated":
        return None
    maximum = agreed_maximum(wishes, chosen)
    _require_outvoted(wishes, chosen, maximum)
    if (quorum := agreed_quorum(wishes)) > maximum:
        raise ConfigError(f"--quorum {quorum} never comes where --maximum {maximum} may join: lower the quorum")
    _require_convergence(chosen)
    try:
        return Coordination(
            coordinator=chosen.coordinator or creator,
            maximum=maximum,
            accumulate=chosen.accumulate,
            late=chosen.late,  # type: ignore[arg-type]  # pydantic checks these
            deadline_spread=chosen.deadline_spread,
            balance=chosen.balance,
            election_s=chosen.election_s,
            aggregation=Aggregation(
                rule=chosen.rule,  # type: ignore[arg-type]
                faulty=chosen.faulty,
                proximal=chosen.proximal,
                server_rate=chosen.server_rate,
                momentum=chosen.momentum,
                schedule=chosen.schedule,  # type: ignore[arg-type]
            ),
            convergence=Convergence(
                metric=chosen.metric,  # type: ignore[arg-type]
                target=chosen.target,
                plateau=chosen.plateau,
            ),
        )
    except ValidationError as error:
        raise in_our_words(error) from error


def _require_fit(wishes: Wishes, chosen: CoordinationWishes) -> None:
    """ConfigError for topology, rule, data and budget that do not go together."""
    coordinated, optimizer = wishes.topology == "coordinated", chosen.rule in OPTIMIZERS
    if (wishes.update == "gradients") != (coordinated and optimizer):
        raise ConfigError(
            f"update {wishes.update!r} of a {wishes.topology} session with the rule {chosen.rule!r}: gradients go with "
            f"--topology coordinated and --rule {' or '.join(sorted(OPTIMIZERS))}, and only with them"
        )
    if wishes.privacy is not None and (wishes.update == "gradients" or (coordinated and chosen.rule == "fedprox")):
        raise ConfigError(
            f"a privacy budget with update {wishes.update!r} and the rule {chosen.rule!r}: DP-SGD sends parameters and "
            "has no proximal term; choose --update parameters and another --rule, or leave --epsilon out"
        )
    if wishes.data == "served" and (not coordinated or wishes.privacy is not None):
        raise ConfigError(
            "--data served needs --topology coordinated and no --epsilon: the coordinator is who has the data set, and "
            "a privacy budget protects data that a member has alone"
        )
    if chosen.election_s and (wishes.privacy is not None or not coordinated):
        raise ConfigError("--election needs --topology coordinated and no --epsilon: leave one of them out")


def _require_outvoted(wishes: Wishes, chosen: CoordinationWishes, maximum: int) -> None:
    """ConfigError where a round may close with so few updates that the bad ones decide it."""
    needed, quorum = needed_updates(chosen.rule, chosen.faulty), agreed_quorum(wishes)
    most, option = min((wishes.members, "--members"), (maximum, "--maximum"))
    if most < needed:
        few, count, cure = f"--faulty {chosen.faulty} of {most} members", most, option
    else:
        few, count, cure = f"--quorum {quorum} with --faulty {chosen.faulty}", quorum, "--quorum"
    if count < needed:
        raise ConfigError(
            f"{few}: {_outvoting(chosen.rule, chosen.faulty)}: choose {cure} {needed} or more, or "
            f"--faulty {max(0, (count - _beyond(chosen.rule)) // 2)} or less"
        )


def _require_convergence(chosen: CoordinationWishes) -> None:
    """ConfigError for a goal that says too little, or that nothing reaches."""
    wanted, target = chosen.metric, chosen.target
    if not wanted and target is not None:
        raise ConfigError(f"--target {target:g} without --metric: say of what, with --metric accuracy or loss")
    if not wanted and chosen.plateau:
        raise ConfigError(f"--plateau {chosen.plateau} without --metric: say of what, with --metric accuracy or loss")
    if wanted and target is None and not chosen.plateau:
        raise ConfigError(
            f"--metric {wanted} ends nothing by itself: add --target VALUE or --plateau ROUNDS, or leave it out"
        )
    if wanted == "accuracy" and target is not None and not 0 < target <= 1:
        raise ConfigError(
            f"--target {target:g} of accuracy, which is a fraction: choose one above 0 and at most 1, as 0.98"
        )
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"--target {target:g} is never reached: choose a finite number, or leave it out")


def require_metric(wishes: Wishes, task: Task) -> None:
    """ConfigError for a metric that the coordinator would not measure: nothing would ever end the session."""
    wanted = "" if wishes.coordination is None else wishes.coordination.metric
    measured = ("loss", *(["accuracy"] if task.classes else []), *task.metrics)
    known = [name for name in get_args(Convergence.model_fields["metric"].annotation) if name in measured]
    if wanted and wanted not in known:
        raise ConfigError(
            f"--metric {wanted}: a session of {task.name} may end by {' or '.join(known)}: choose "
            f"{'that' if len(known) == 1 else 'one of them'}, or leave it out"
        )


def model_hash(learner: Learner) -> str:
    """SHA-256 of the names and shapes of a model's parameters: whoever has another one cannot take part."""
    return hashlib.sha256(learner.spec.header).hexdigest()


# What pydantic found, in our words

PARTS: MappingProxyType[str, type[BaseModel]] = MappingProxyType(
    {
        each.__name__: each
        for each in (Session, Shares, Limits, Contract, Meeting, Aggregation, Convergence, Coordination, Privacy)
    }
)
OPTIONS = MappingProxyType(
    {  # of the fields that have another name in the session file
        "count": "--members",
        "source": "--data",
        "bytes": "--split-bytes",
        "round_deadline_s": "--round-deadline",
        "election_s": "--election",
        "bootstrap": "--peers",
        "trackers": "--tracker",
        "learning_rate": "--private-learning-rate",
    }
)
CURES = MappingProxyType(
    {  # where the field's bounds do not say it
        "coordinator": "an account is 0x and 40 hexadecimal digits, as `fl-node init` prints it (the default: yours)",
        "name": "choose 1 to 64 letters, digits, blanks or any of . + : / _ -",
        "task": "choose 1 to 64 letters, digits, blanks or any of . + : / _ - as the task's name",
        "codec": "choose the name of a codec, as float32",
        "bootstrap": "choose at most 64 addresses, of at most 512 characters each",
        "trackers": "choose at most 16 addresses, of at most 512 characters each",
        "rpc": "choose one line of at most 512 characters",
        "split": "choose one line of at most 512 characters",
    }
)
BOUNDS: tuple[tuple[str, str], ...] = (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "at most"))


def in_our_words(error: ValidationError) -> ConfigError:
    """The first thing that is wrong: its option, its value, and what to choose."""
    first = error.errors()[0]
    if not first["loc"]:
        return ConfigError(str(first.get("ctx", {}).get("error", first["msg"])))
    name, value = str(first["loc"][0]), str(first["input"])
    option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
    field = PARTS[error.title].model_fields[name]
    cure = CURES.get(name) or _choices(field.annotation) or _range(field.metadata)
    return ConfigError(f"{option} {value[:80]}: {cure}")


def _choices(annotation: Any) -> str:
    """The values of a Literal; empty for any other type."""
    return f"choose {' or '.join(filter(None, get_args(annotation)))}" if get_origin(annotation) is Literal else ""


def _range(metadata: list[Any]) -> str:
    """What the bounds of a number allow."""
    bounds = {bound: getattr(each, bound) for each in metadata for bound, _ in BOUNDS if hasattr(each, bound)}
    allowed = [f"{words} {bounds[bound]:.15g}" for bound, words in BOUNDS if bound in bounds]
    return f"choose a number {' and '.join(allowed) or 'that is finite'}"
