"""A gossip session of virtual members: the node's own functions, mapped over all members at once."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning.baselines import BASELINES, ROWS
from node.learning.codecs import Codec, Past, codec
from node.learning.earlier import Held
from node.learning.many import Evaluator, Pool, Trainer
from node.learning.task import Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan
from node.messages import WEIGHT_SUM
from node.simulation.attacks import Scene, draw_attackers, forge, poison, require_attack
from node.simulation.measuring import Measure
from node.simulation.mixing import Mixer
from node.simulation.neighbors import Neighbors, fixed_neighbors, inputs_of
from node.simulation.settings import SimulatedRound, SimulationSettings, with_settings

COPIES = 4  # of everybody's parameters at least: before and after a round, what was sent first and last
SHARING = ("none", "fixed", "learned", *BASELINES, *ROWS)


@dataclass
class World:
    """A simulated session between two rounds: everybody's parameters (members, size) and what belongs to them."""

    settings: SimulationSettings
    learner: Learner
    codec: Codec
    attackers: frozenset[int]
    graph: Neighbors | None
    train: Pool
    trainer: Trainer
    mixer: Mixer
    measure: Measure
    generators: Sequence[torch.Generator]  # for training, and for an attacker's forging
    judging: Sequence[torch.Generator]  # for learning rows, so that members train alike whatever the sharing
    flats: Tensor
    residuals: list[Tensor | None]
    held: list[Held]  # each member's payloads, for codecs that build on them
    first: Tensor | None = None  # (members, size): what was sent in the first round
    sent: Tensor | None = None  # and in the last one

    @property
    def honest(self) -> tuple[int, ...]:
        """The honest members, ascending."""
        return tuple(member for member in range(self.settings.members) if member not in self.attackers)


def simulate(settings: SimulationSettings) -> Iterator[SimulatedRound]:
    """The rounds of a simulated session, one by one. Raises NodeError for settings or data that can't be."""
    learner = prepare(with_settings(load_task(settings.task), settings), settings.seed)
    require_settings(settings, learner)
    world = make_world(learner, settings)
    for round in range(1, settings.rounds + 1):
        yield simulate_round(world, round)


def require_settings(settings: SimulationSettings, learner: Learner) -> None:
    """Raises ConfigError, with the cure, for settings that can't be simulated."""
    if settings.sharing not in SHARING:
        raise ConfigError(f"unknown sharing {settings.sharing!r}: choose one of {', '.join(SHARING)}")
    if settings.attack is not None:
        require_attack(settings.attack, learner.task)
    if not 0 <= settings.attackers < settings.members:
        raise ConfigError(f"{settings.attackers} attackers of {settings.members} members: leave at least one honest")
    if settings.attackers and settings.attack is None:
        raise ConfigError(f"{settings.attackers} attackers without an attack: say which one")
    require_memory(settings, learner)


def require_memory(settings: SimulationSettings, learner: Learner) -> None:
    """Raises ConfigError for more parameters than this machine can ever hold."""
    needed = COPIES * settings.members * learner.spec.payload_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"{settings.members} members of {learner.spec.size} parameters take {needed / 2**30:.1f} GiB at least, "
            f"and this machine has {memory / 2**30:.1f}: take fewer members or a smaller model"
        )


def make_world(learner: Learner, settings: SimulationSettings) -> World:
    """Everybody with its share of the data, at the session's initial parameters."""
    attackers = draw_attackers(settings)
    splits = [data_of(learner, settings, member, attackers) for member in range(settings.members)]
    train = Pool.of([split.train for split in splits])
    return World(
        settings=settings,
        learner=learner,
        codec=codec(settings.codec),
        attackers=attackers,
        graph=fixed_neighbors(settings),
        train=train,
        trainer=Trainer(learner),
        mixer=Mixer(learner, settings, Pool.of([split.validation for split in splits]), train.sizes, attackers),
        measure=Measure(learner, settings, splits, Evaluator(learner)),
        generators=[generator_of(settings, member) for member in range(settings.members)],
        judging=[generator_of(settings, member, "trust") for member in range(settings.members)],
        flats=learner.initial().repeat(settings.members, 1),
        residuals=[None] * settings.members,
        held=[Held() for _ in range(settings.members)],
    )


def data_of(learner: Learner, settings: SimulationSettings, member: int, attackers: frozenset[int]) -> LocalSplit:
    """A member's share of the data; an attacker's may be poisoned."""
    share = Share(
        settings.data_dir, member, settings.members, settings.split, settings.seed, held_out=settings.held_out
    )
    data = learner.task.data(share)
    if settings.attack is not None and member in attackers:
        return poison(settings.attack, data, learner.task.classes or 0)
    return data


def generator_of(settings: SimulationSettings, member: int, purpose: str = "") -> torch.Generator:
    """A member's randomness, another stream for each purpose."""
    digest = hashlib.sha256(f"{settings.seed}/{member}{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def simulate_round(world: World, round: int) -> SimulatedRound:
    """Everybody trains, attackers forge, then everybody mixes."""
    settings, honest = world.settings, world.honest
    before = world.flats
    updates = trained(world, round)
    require_no_divergence(world, updates, round)
    updates, payload_bytes = encoded(world, updates)
    updates = forged(world, updates)
    peers = {member: inputs_of(member, settings, world.graph, world.attackers, round) for member in honest}
    mixed = world.mixer(round, peers, before, updates, world.judging)
    world.flats = torch.empty_like(updates)
    world.flats[list(honest)] = mixed.flats
    for attacker in world.attackers:  # it knows everybody, and starts the next round from the honest mean
        world.flats[attacker] = mixed.flats.mean(dim=0)
    weights = [sum(weight for peer, weight in row.items() if peer in world.attackers) for row in mixed.rows]
    received = sum(len(chosen) - 1 for chosen in peers.values()) / len(honest)
    return SimulatedRound(
        round=round,
        members=honest,
        metrics=world.measure(mixed.flats, honest),
        payload_bytes=payload_bytes,
        bytes_per_member=payload_bytes * received,
        rows=mixed.rows,
        attacker_weight=sum(weights) / len(weights) / WEIGHT_SUM,
        flats=mixed.flats,
    )


def trained(world: World, round: int) -> Tensor:
    """Everybody's parameters (members, size) after the round's local steps."""
    task = world.learner.task
    plans = [
        Plan(task.steps_per_round(examples), generator)
        for examples, generator in zip(world.train.sizes, world.generators, strict=True)
    ]
    rate = task.learning_rate_in(round, world.settings.rounds)
    return world.trainer.train(world.flats, world.train, plans, rate)


def require_no_divergence(world: World, updates: Tensor, round: int) -> None:
    """Raises ConfigError, with the cure, when a member's training diverged."""
    diverged = (~updates.isfinite().all(dim=1)).nonzero().squeeze(1).tolist()
    if diverged:
        settings, rate = world.settings, world.learner.task.learning_rate
        attacked = f", or a sharing that withstands {settings.attack}"
        raise ConfigError(
            f"member {diverged[0]} diverged in round {round}, at a learning rate of {rate:g}: take a smaller one"
            + (attacked if world.attackers and not settings.attackers_absent else "")
        )


def encoded(world: World, flats: Tensor) -> tuple[Tensor, int]:
    """What peers decode (members, size), and the bytes of the largest payload."""
    result, largest, spec = torch.empty_like(flats), 0, world.learner.spec
    for member, (flat, held) in enumerate(zip(flats, world.held, strict=True)):
        past = Past(world.flats[member], held.newest, held.resolve)
        payload = world.codec.encode(spec, flat, world.residuals[member], past)
        world.residuals[member] = payload.residual
        held.keep(world.codec, spec, payload.payload)
        result[member] = world.codec.decode(spec, payload.payload, held.resolve)
        largest = max(largest, len(payload.payload))
    return result, largest


def forged(world: World, updates: Tensor) -> Tensor:
    """The updates that are sent: attackers' ones replaced by what their attack makes of them."""
    honest, attackers = list(world.honest), sorted(world.attackers)
    sent = updates.clone()
    for attacker in attackers:
        assert world.settings.attack is not None
        scene = Scene(
            start=world.flats[attacker],
            own=updates[attacker],
            honest=updates[honest],
            attackers=len(attackers),
            initial=world.learner.initial(),
            first=updates[attacker] if world.first is None else world.first[attacker],
            previous=updates[honest[0]] if world.sent is None else world.sent[honest[0]],
            leader=updates[attackers[0]],
            generator=world.generators[attacker],
        )
        sent[attacker] = forge(world.settings.attack, scene)
    world.sent = sent
    world.first = sent if world.first is None else world.first
    return sent
