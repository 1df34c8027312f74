"""A gossip session of virtual members: the node's own training, weighing and mixing, one member after another."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning import trainer, trust
from node.learning.codecs import Codec, codec
from node.learning.mixing import mix, quantise
from node.learning.task import Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task
from node.session.cohort import draw_cohort

SHARING = ("none", "fixed", "learned")


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What is simulated; the same settings give the same result, bit for bit."""

    task: str = "mnist-softmax"
    members: int = 4
    cohort: int | None = None  # None: everybody
    rounds: int = 10
    split: str = "iid"
    sharing: str = "learned"
    objective: str = "common"
    codec: str = "float32"
    seed: int = 7
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """One finished round: metrics per member, bytes that each shared, and the trust matrix of 16-bit weights."""

    round: int
    metrics: tuple[Mapping[str, float], ...]
    payload_bytes: int
    rows: tuple[Mapping[int, int], ...]  # by member: peer -> weight of 65,535


@dataclass
class Member:
    """A virtual member: its data and what it has learned."""

    index: int
    data: LocalSplit
    flat: Tensor
    generator: torch.Generator
    trust: trust.TrustState
    residual: Tensor | None = None


def simulate(settings: SimulationSettings) -> Iterator[SimulatedRound]:
    """The rounds of a simulated session, one by one. Raises NodeError for settings or data that can't be."""
    if settings.sharing not in SHARING:
        raise ConfigError(f"unknown sharing {settings.sharing!r}: choose one of {', '.join(SHARING)}")
    learner = prepare(load_task(settings.task), settings.seed)
    members = [make_member(learner, settings, index) for index in range(settings.members)]
    for round in range(1, settings.rounds + 1):
        yield simulate_round(learner, members, settings, round)


def make_member(learner: Learner, settings: SimulationSettings, index: int) -> Member:
    """A member with its share of the data, at the session's initial parameters."""
    share = Share(settings.data_dir, index, settings.members, settings.split, settings.seed)
    digest = hashlib.sha256(f"{settings.seed}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return Member(index, learner.task.data(share), learner.initial(), generator, trust.TrustState.fresh())


def simulate_round(learner: Learner, members: list[Member], settings: SimulationSettings, round: int) -> SimulatedRound:
    """Everybody trains, then everybody mixes."""
    chosen = codec(settings.codec)
    payloads = [train_member(learner, member, chosen) for member in members]
    updates = [chosen.decode(learner.spec, payload) for payload in payloads]
    rows = [mix_member(learner, member, updates, settings, round) for member in members]
    metrics = tuple(trainer.evaluate(learner, member.flat, member.data.test) for member in members)
    return SimulatedRound(round, metrics, max(len(payload) for payload in payloads), tuple(rows))


def train_member(learner: Learner, member: Member, chosen: Codec) -> bytes:
    """A member's encoded update of the round."""
    steps = learner.task.steps_per_round(len(member.data.train))
    trained = trainer.train(learner, member.flat, member.data.train, trainer.Plan(steps, member.generator))
    encoded = chosen.encode(learner.spec, trained.flat, member.residual)
    member.residual = encoded.residual
    return encoded.payload


def mix_member(
    learner: Learner, member: Member, updates: list[Tensor], settings: SimulationSettings, round: int
) -> dict[int, int]:
    """Mixes a member's cohort into its parameters; the row that was used."""
    size = settings.members - 1 if settings.cohort is None else settings.cohort
    drawn = (
        () if settings.sharing == "none" else draw_cohort(settings.seed, round, member.index, settings.members, size)
    )
    chosen = tuple(sorted({member.index, *drawn}))
    stacked = torch.stack([updates[peer] for peer in chosen])
    row = [1.0] * len(chosen)
    if settings.sharing == "learned":
        inputs = trust.Inputs(chosen, chosen.index(member.index), stacked)
        judge = trust.Judge(learner, member.data.validation)
        wishes = trust.TrustSettings(objective=settings.objective)
        member.trust, learned = trust.learn_row(member.trust, inputs, judge, wishes, member.generator)
        row = learned.tolist()
    weights = quantise(row)
    member.flat = mix(stacked, weights)
    return dict(zip(chosen, weights.tolist(), strict=True))
