"""Everything that can be wrong is found here, before a socket is opened: files, keys, chain, session, task, data."""

import hashlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from eth_account.signers.local import LocalAccount
from torch import Tensor

from ledger import load_keystore
from node.agreement import INITIAL_FILE, OpenSession, open_session
from node.daemon.admission import (
    is_named_coordinator,
    require_experiment,
    require_place,
    require_role,
    require_room,
    require_throttle,
    require_updates,
    take_seat,
    worker_number,
)
from node.daemon.directory import LedgerDirectory
from node.daemon.handing_out import Shelf, hand_out
from node.daemon.journal import IN_MEMORY
from node.daemon.learner import Seat, TorchLearner
from node.daemon.memory import give_back_freed_memory
from node.daemon.misbehavior import Misbehavior
from node.daemon.private import open_private, private_way
from node.daemon.settings import StartSettings
from node.daemon.spool import Spool
from node.errors import ConfigError, NetworkError, StorageError, TaskError
from node.home import Home, bind_home, keep_session_file, open_home
from node.learning import parameters, trainer
from node.learning.builtin_tasks import BUILTIN_TASKS
from node.learning.codecs import codec
from node.learning.devices import CPU, bench, choose, present
from node.learning.local_work import train_from
from node.learning.served import no_examples
from node.learning.task import Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task
from node.learning.trust import TrustSettings
from node.learning.vectors import payload_pieces, sha256_of
from node.network.identity import Identity, load_identity
from node.session.ports import Payload
from node.simulation.attacks import poison
from node.storage import Snapshots
from node.wishes import model_hash

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """A node that could start: its session, keys, place among the members, model and data."""

    opened: OpenSession
    identity: Identity
    account: LocalAccount
    directory: LedgerDirectory
    learner: TorchLearner
    initial_matches: bool  # our own initialisation gave the session's initial parameters
    shelf: Shelf | None = None  # of a coordinator that serves its data
    held: dict[bytes, Payload] = field(default_factory=dict)  # accepted payloads of other members, by SHA-256


def prepare_node(settings: StartSettings) -> Prepared:
    """Reads, checks and joins; synchronous. Raises NodeError or LedgerError naming the first thing that is wrong."""
    home = open_home(settings.home.path)
    identity = load_identity(home.identity)
    device = choose(settings.device, present())
    opened = open_session(settings.session_path, settings.rpc, ways=settings.reach)
    require_throttle(opened, settings.throttle_s)
    device = private_device(opened, settings.device, device)
    learner = session_learner(opened, settings.task)
    if settings.misbehave is not None:
        require_experiment(opened, learner, settings.misbehave)
    account = load_keystore(home.keystore, settings.passphrase)
    require_role(opened, str(account.address), settings.role)
    if settings.misbehave is not None:
        require_updates(opened, str(account.address), settings.misbehave)
    require_room(opened, str(account.address))
    data_of = share_reader(opened, learner, settings, str(account.address))
    expected = opened.entry.member_count if settings.share is None else settings.share
    data = data_of(worker_number(opened, expected))  # before joining: a missing data set must not cost a membership
    if is_large(opened):
        learner.without_numbers()
    shelf = None
    if len(data.train):
        try_one_step(learner, data, device)
        shelf = served_shelf(opened, str(account.address), home, data)
    privacy = None if is_named_coordinator(opened, str(account.address)) else opened.session.privacy
    way = None if privacy is None else private_way(privacy, learner, data.train, opened.session.rounds)
    for address in settings.listen:
        require_free(address)
    bind_home(home, opened.session_id, opened.session.name)
    keep_session_file(home, opened.content)
    directory = take_seat(settings, opened, identity, account)
    require_place(opened, str(account.address), directory.seats)
    if settings.share is None and directory.own_index != expected:
        data = data_of(worker_number(opened, directory.own_index))
        way = None if privacy is None else private_way(privacy, learner, data.train, opened.session.rounds)
    seat = Seat(opened.session_id, opened.session.seed, directory.own_index)
    flat = first_parameters(opened, learner)
    digest = sha256_of(payload_pieces(learner.spec, flat)).hex()
    trust = TrustSettings(objective=opened.session.objective)
    coding, rounds = codec(opened.session.codec), opened.session.rounds
    torch_learner = TorchLearner(learner, data, coding, seat, trust, flat, rounds=rounds, spool=Spool(home.spool))
    torch_learner.device = device
    if settings.misbehave is not None:
        misbehave(torch_learner, settings.misbehave)
    if way is not None:
        recorded = opened.ledger.head(opened.session_id, str(account.address)).next_round - 1
        who = f"{opened.session_id}/{directory.own_index}"
        torch_learner.private = open_private(home, way, torch_learner.data.train, who, recorded)
    matches = digest == opened.session.initial.sha256
    return Prepared(opened, identity, account, directory, torch_learner, matches, shelf)


def served_shelf(opened: OpenSession, account: str, home: Home, data: LocalSplit) -> Shelf | None:
    """A coordinator's whole data set, cut for the learners, where the session serves it."""
    if opened.session.data.source != "served" or not is_named_coordinator(opened, account):
        return None
    return hand_out(home.data, data.train, opened.session.data, opened.session.seed)


def session_learner(opened: OpenSession, task: str | None) -> Learner:
    """The task made ready. TaskError if it is not the session's."""
    session = opened.session
    give_back_freed_memory()  # before the first model is made
    if task is None and session.task not in BUILTIN_TASKS:
        raise TaskError(
            f"session {session.name} trains the task {session.task!r} of a Python file: pass --task FILE.py:NAME"
        )
    learner = prepare(load_task(task or session.task), session.seed)
    if learner.task.name != session.task:
        raise TaskError(f"session {session.name} trains {session.task!r}, --task gives {learner.task.name!r}")
    if model_hash(learner) != session.model_sha256:
        raise TaskError(
            f"the model of task {learner.task.name!r} ({learner.spec.size} numbers) has other parameters than the "
            f"session's: use the file that the creator of {session.name} used"
        )
    return learner


def is_large(opened: OpenSession) -> bool:
    """Whether payloads of the session are too large for the memory."""
    return opened.session.limits.payload_bytes > IN_MEMORY


def first_parameters(opened: OpenSession, learner: Learner) -> Tensor:
    """What the task's model starts from (size,); the model that they come from leaves no memory behind."""
    flat = learner.initial()
    if is_large(opened):
        give_back_freed_memory()  # of layers that are too small to be mapped one by one
    return flat


def private_device(opened: OpenSession, wanted: str, device: torch.device) -> torch.device:
    """Where a session with a budget trains: on the CPU, where the same noise gives the same update after a crash."""
    if opened.session.privacy is None or device == CPU:
        return device
    if wanted.strip().lower() != "auto":
        raise ConfigError(
            f"--device {wanted}: session {opened.session.name} has a privacy budget and trains on the CPU, where an "
            "update that was paid for is the same when it is made again: choose --device auto or cpu"
        )
    return CPU


def misbehave(learner: TorchLearner, attack: str) -> None:
    """Makes the learner an attacker: poisons its training data, and forges what it sends."""
    learner.data = poison(attack, learner.data, learner.learner.task.classes or 0)
    learner.misbehavior = Misbehavior(attack, learner.learner.initial())


def require_free(address: str) -> None:
    """Raises NetworkError if a TCP address cannot be listened on: found now, it costs no membership."""
    family, host, port = listening_place(address)
    if not port:
        return
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(f"cannot listen on {address}: {error.strerror}; choose another --listen") from error


def listening_place(address: str) -> tuple[socket.AddressFamily, str, int]:
    """Address family, host and port of a /ip4/…/tcp/… or /ip6/…/tcp/… multiaddr; port 0 for anything else."""
    parts = address.strip("/").split("/")
    if len(parts) < 4 or parts[2] != "tcp":
        return socket.AF_INET, "", 0
    family = socket.AF_INET6 if parts[0] == "ip6" else socket.AF_INET
    return family, parts[1], int(parts[3])


def try_one_step(learner: Learner, data: LocalSplit, device: torch.device = CPU) -> None:
    """Raises TaskError if model, data and loss do not fit; also spares the first round torch's first-use imports."""
    few = data.train.rows(torch.arange(min(2, len(data.train))))
    ready = bench(device, learner, learner.initial(), few)
    try:
        train_from(ready.learner, ready.flat, ready.data, trainer.Plan(1, torch.Generator()))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # of the task's augment, or of the device
        raise TaskError(
            f"task {learner.task.name!r} does not train on {device}: {str(error).splitlines()[0]}"
            + ("" if device == CPU else ": start with --device cpu")
        ) from error


def share_reader(
    opened: OpenSession, learner: Learner, settings: StartSettings, account: str
) -> Callable[[int], LocalSplit]:
    """Reads the data of the member with an index; of served data all for the coordinator, and none yet for a worker."""
    session = opened.session
    served, everything = session.data.source == "served", is_named_coordinator(opened, account)

    def read(index: int) -> LocalSplit:
        if served and not everything:
            return LocalSplit(no_examples(), no_examples(), no_examples())
        count = session.data.count
        share = Share(settings.data_dir, index % count, count, session.data.split, session.seed)
        if served:
            share = Share(settings.data_dir, seed=session.seed)
        data = learner.task.data(share)
        if not len(data.train) or not len(data.validation):
            raise TaskError(
                f"task {learner.task.name!r}: data() gave {len(data.train)} training and {len(data.validation)} "
                "validation examples: both are needed"
            )
        return data

    return read


async def initial_parameters(prepared: Prepared, snapshots: Snapshots) -> None:
    """Sees to it that the learner starts from the session's initial parameters, by CID where ours differ."""
    if prepared.initial_matches:
        return
    learner, initial = prepared.learner, prepared.opened.session.initial
    limit = learner.learner.spec.payload_size
    payload = await snapshots.read(initial.cid, INITIAL_FILE, limit)
    if hashlib.sha256(payload).hexdigest() != initial.sha256:
        raise StorageError(f"the initial parameters {initial.cid} are not the session's: ask its creator")
    learner.flat = parameters.decode(learner.learner.spec, payload)
