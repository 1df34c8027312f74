"""A gossip session of virtual members: the node's own training, weighing and mixing, one member after another."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning import trainer, trust
from node.learning.baselines import BASELINES
from node.learning.codecs import Codec, codec
from node.learning.mixing import mix, quantise
from node.learning.task import Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task
from node.messages import WEIGHT_SUM
from node.session.cohort import draw_cohort
from node.simulation.attacks import Scene, forge, honest_members, poison, require_attack
from node.simulation.settings import SimulatedRound, SimulationSettings

SHARING = ("none", "fixed", "learned", *BASELINES)


@dataclass
class Member:
    """A virtual member: its data and what it has learned."""

    index: int
    data: LocalSplit
    flat: Tensor
    generator: torch.Generator
    trust: trust.TrustState
    residual: Tensor | None = None
    first: Tensor | None = None  # its update of the first round
    sent: Tensor | None = None  # its update of the last round


def simulate(settings: SimulationSettings) -> Iterator[SimulatedRound]:
    """The rounds of a simulated session, one by one. Raises NodeError for settings or data that can't be."""
    learner = prepare(load_task(settings.task), settings.seed)
    require_settings(settings, learner)
    members = [make_member(learner, settings, index) for index in range(settings.members)]
    for round in range(1, settings.rounds + 1):
        yield simulate_round(learner, members, settings, round)


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


def make_member(learner: Learner, settings: SimulationSettings, index: int) -> Member:
    """A member with its share of the data, at the session's initial parameters."""
    share = Share(settings.data_dir, index, settings.members, settings.split, settings.seed)
    digest = hashlib.sha256(f"{settings.seed}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    data = learner.task.data(share)
    if settings.attack is not None and index not in honest_members(settings.members, settings.attackers):
        data = poison(settings.attack, data, learner.task.classes or 0)
    return Member(index, data, learner.initial(), generator, trust.TrustState.fresh())


def simulate_round(learner: Learner, members: list[Member], settings: SimulationSettings, round: int) -> SimulatedRound:
    """Everybody trains, attackers forge, then everybody mixes."""
    chosen = codec(settings.codec)
    honest = honest_members(settings.members, settings.attackers)
    payloads = [train_member(learner, member, chosen) for member in members]
    updates = forged(learner, members, [chosen.decode(learner.spec, payload) for payload in payloads], settings)
    rows = [mix_member(learner, members[index], updates, settings, round) for index in honest]
    for attacker in members[len(honest) :]:  # it knows everybody, and starts the next round from the honest mean
        attacker.flat = torch.stack([members[index].flat for index in honest]).mean(dim=0)
    metrics = tuple(measured(learner, members[index]) for index in honest)
    weights = [sum(weight for peer, weight in row.items() if peer not in honest) for row in rows]
    share = sum(weights) / len(weights) / WEIGHT_SUM
    size = max(len(payload) for payload in payloads)
    received = size * sum(len(row) - 1 for row in rows) / len(rows)
    flats = torch.stack([members[index].flat for index in honest])
    return SimulatedRound(round, tuple(honest), metrics, size, received, tuple(rows), share, flats)


def train_member(learner: Learner, member: Member, chosen: Codec) -> bytes:
    """A member's encoded update of the round."""
    steps = learner.task.steps_per_round(len(member.data.train))
    trained = trainer.train(learner, member.flat, member.data.train, trainer.Plan(steps, member.generator))
    encoded = chosen.encode(learner.spec, trained.flat, member.residual)
    member.residual = encoded.residual
    return encoded.payload


def forged(
    learner: Learner, members: list[Member], updates: list[Tensor], settings: SimulationSettings
) -> list[Tensor]:
    """The updates that are sent: attackers' ones replaced by what their attack makes of them."""
    count = settings.members - settings.attackers
    sent = list(updates)
    for index in range(count, settings.members):
        assert settings.attack is not None
        before, first = members[0].sent, members[index].first
        scene = Scene(
            own=updates[index],
            honest=torch.stack(updates[:count]),
            attackers=settings.attackers,
            initial=learner.initial(),
            first=updates[index] if first is None else first,
            previous=updates[0] if before is None else before,
            leader=updates[count],
            generator=members[index].generator,
        )
        sent[index] = forge(settings.attack, scene)
    for member, update in zip(members, sent, strict=True):
        member.sent = update
        member.first = update if member.first is None else member.first
    return sent


def mix_member(
    learner: Learner, member: Member, updates: list[Tensor], settings: SimulationSettings, round: int
) -> dict[int, int]:
    """Mixes a member's cohort into its parameters; the row that was used (empty for a baseline without one)."""
    chosen = inputs_of(member.index, settings, round)
    stacked = torch.stack([updates[peer] for peer in chosen])
    own = chosen.index(member.index)
    row = [1.0] * len(chosen)
    if settings.sharing in BASELINES and len(chosen) > 1:
        others = torch.cat([stacked[:own], stacked[own + 1 :]])
        member.flat = BASELINES[settings.sharing](stacked[own], others, settings.attackers)
        return {}
    if settings.sharing == "learned":
        inputs = trust.Inputs(chosen, own, stacked)
        judge = trust.Judge(learner, member.data.validation)
        wishes = trust.TrustSettings(objective=settings.objective, prior_strength=settings.prior_strength)
        member.trust, learned = trust.learn_row(member.trust, inputs, judge, wishes, member.generator)
        row = learned.tolist()
    weights = quantise(row)
    member.flat = mix(stacked, weights)
    return dict(zip(chosen, weights.tolist(), strict=True))


def inputs_of(member: int, settings: SimulationSettings, round: int) -> tuple[int, ...]:
    """Whom a member mixes in a round: itself and its cohort, in ascending order."""
    if settings.sharing == "none":
        return (member,)
    size = settings.members - 1 if settings.cohort is None else settings.cohort
    drawn = {member, *draw_cohort(settings.seed, round, member, settings.members, size)}
    if settings.attackers_absent:
        drawn &= set(honest_members(settings.members, settings.attackers))
    return tuple(sorted(drawn))


def measured(learner: Learner, member: Member) -> dict[str, float]:
    """Metrics on the common test set, and with classes the accuracy on the member's own distribution of them."""
    metrics = trainer.evaluate(learner, member.flat, member.data.test)
    classes = learner.task.classes
    if classes is None:
        return metrics
    targets = member.data.test.targets
    hits = (trainer.predict(learner, member.flat, member.data.test.inputs) == targets).double()
    seen = torch.bincount(targets, minlength=classes).clamp(min=1)
    recall = torch.bincount(targets, weights=hits, minlength=classes) / seen
    own = torch.bincount(member.data.train.targets, minlength=classes).double()
    return {**metrics, "own_accuracy": float(recall @ (own / own.sum()))}
