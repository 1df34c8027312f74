"""What a curious peer learns from an update, with and without differential privacy: a session in memory, attacked.

The attacker is a peer that has all updates, knows the victim's way of training and which examples come into question:
victims' training sets (members) and examples of the same kind that nobody trains on (others; a data set's own test
images may be a little easier, so they would not do). It attacks victims' last updates; its shadow models start from the
mixture that the victims started from. Equal weights, full cohorts. Every seed is a session of its own, with other
members' examples; the attacks are judged over all of them together. Knows no network.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning import membership, trainer
from node.learning.accounting import Budget, spent
from node.learning.membership import Interval, Leak, Scores
from node.learning.mixing import mix, quantise
from node.learning.privacy import Mechanism, PrivatePlan, mechanism_for, private_train
from node.learning.secret_noise import round_noise
from node.learning.task import Examples, Learner, LocalSplit, Share, Task, prepare
from node.learning.task_files import load_task

Fit = Callable[[Tensor, Examples, str], Tensor]  # (start, data, context) -> parameters after one round
Tell = Callable[[str], None]
VICTIMS = 3  # at most


@dataclass(frozen=True, slots=True)
class Setting:
    """One comparison: the task as it is without a budget, and with these changes for DP-SGD under each epsilon."""

    task: str = "mnist-softmax"
    data_dir: Path | None = None
    members: int = 6
    rounds: int = 20
    shadows: int = 16
    seeds: tuple[int, ...] = (0,)  # of one session each
    delta: float = 1e-5
    batch_size: int = 400  # of private members, on average
    learning_rate: float = 1.0  # of private members
    clip: float = 1.0
    accountant: str = "prv"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Sessions, and what the attacks on updates of them achieve; advantage and AUC are those of the better one."""

    epsilon: float | None  # the budget; None without privacy
    accuracy: float  # of the mixture, on the test data, a fraction; mean over seeds
    membership_advantage: float
    membership_advantage_interval: Interval  # 95 %, over examples
    auc: float
    auc_interval: Interval
    epsilon_spent: float | None  # as the accountant says after the last round
    noise_multiplier: float | None
    update_accuracy: float  # of the first member's last update; likewise
    loss_threshold: Leak
    shadow_models: Leak


@dataclass(frozen=True, slots=True)
class Attack:
    """The scores that an attack gave to examples, of victims and of nobody."""

    members: Scores
    others: Scores


@dataclass(frozen=True, slots=True)
class Session:
    """One session: accuracies of the mixture and of the first member's last update, its privacy, and both attacks."""

    accuracy: float
    update_accuracy: float
    mechanism: Mechanism | None
    spent: float | None
    attacks: tuple[Attack, Attack]  # by loss, by shadow models


def compare(setting: Setting, epsilons: Sequence[float], tell: Tell = lambda _line: None) -> Iterator[Exposure]:
    """The sessions without privacy, then with each budget. The same setting gives the same numbers.

    The noise depends on the seed here, so that anybody can repeat the experiment: no node does that.
    Raises ConfigError or TaskError.
    """
    if setting.members < 2 or setting.shadows < 2 or setting.shadows % 2:
        raise ConfigError(
            f"{setting.members} members and {setting.shadows} shadow models: at least 2 of each, and shadows in pairs"
        )
    if not setting.seeds or len(set(setting.seeds)) < len(setting.seeds):
        raise ConfigError(f"seeds {', '.join(map(str, setting.seeds))}: give at least one, and each once")
    task = load_task(setting.task)
    if task.classes is None:
        raise ConfigError(f"task {task.name!r} has no classes: the accuracy beside the privacy would be missing")
    for epsilon in (None, *epsilons):
        yield expose(task, epsilon, setting, tell)


def expose(task: Task, epsilon: float | None, setting: Setting, tell: Tell) -> Exposure:
    """One session for each seed, and the attacks on some of its members, judged together."""
    name = "without privacy" if epsilon is None else f"epsilon {epsilon:g}"
    found = [attacked(task, epsilon, setting, seed, lambda line: tell(f"{name}, {line}")) for seed in setting.seeds]
    generator = np.random.default_rng(setting.seeds[0])
    by_loss, by_shadows = (
        membership.leak(
            np.concatenate([attacks.members for attacks in each]),
            np.concatenate([attacks.others for attacks in each]),
            generator,
        )
        for each in zip(*(session.attacks for session in found), strict=True)
    )
    best = max(by_loss, by_shadows, key=lambda leak: leak.advantage)
    clearest = max(by_loss, by_shadows, key=lambda leak: leak.auc)
    mechanism = found[0].mechanism
    return Exposure(
        epsilon=epsilon,
        accuracy=float(np.mean([session.accuracy for session in found])),
        membership_advantage=best.advantage,
        membership_advantage_interval=best.advantage_interval,
        auc=clearest.auc,
        auc_interval=clearest.auc_interval,
        epsilon_spent=max((s.spent for s in found if s.spent is not None), default=None),
        noise_multiplier=None if mechanism is None else mechanism.noise_multiplier,
        update_accuracy=float(np.mean([session.update_accuracy for session in found])),
        loss_threshold=by_loss,
        shadow_models=by_shadows,
    )


def attacked(task: Task, epsilon: float | None, setting: Setting, seed: int, tell: Tell) -> Session:
    """One session, and the attacks on some of its members."""
    count = setting.members + 1
    splits = [task.data(Share(setting.data_dir, i, count, "iid", seed)) for i in range(count)]  # the last is nobody's
    mechanism = total = None
    if epsilon is not None:
        task = replace(task, learning_rate=setting.learning_rate, batch_size=setting.batch_size)
        budget = Budget(epsilon, setting.delta, setting.accountant)
        mechanism = mechanism_for(task, len(splits[0].train), budget, setting.rounds, setting.clip)
        total = spent((mechanism.release(setting.rounds * task.steps_per_round(len(splits[0].train))),), budget)
    learner = prepare(task, seed)
    mixed, weights = learner.initial(), quantise(np.ones(setting.members))
    tell(f"seed {seed}: {setting.rounds} rounds of {setting.members} members")
    for round in range(1, setting.rounds + 1):
        start, fit = mixed, _fitting(learner.in_round(round, setting.rounds), mechanism, seed)
        updates = [fit(start, split.train, f"{i}/{round}") for i, split in enumerate(splits[:-1])]
        mixed = mix(updates, weights)
    attacker = Attacker(learner, fit, start, setting.shadows, seed)
    attacks = attacker.attack(updates, sides(splits, setting.members, seed), tell)
    accuracy, of_update = (trainer.evaluate(learner, flat, splits[0].test)["accuracy"] for flat in (mixed, updates[0]))
    return Session(accuracy, of_update, mechanism, total, attacks)


@dataclass(frozen=True, slots=True)
class Sides:
    """The training set of a victim, and as good examples that nobody trained on."""

    members: Examples
    others: Examples

    def pool(self) -> Examples:
        """Both, members first."""
        return joined([self.members, self.others])


def sides(splits: Sequence[LocalSplit], members: int, seed: int) -> list[Sides]:
    """The first few members as victims; what nobody trained on is dealt out to them, so that no example counts twice.

    That is the last split, and the validation data of all, which equal weights make no use of.
    """
    outside = joined([splits[-1].train, *(split.validation for split in splits)])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(outside)))
    victims = splits[: min(VICTIMS, members)]
    parts = torch.tensor_split(order, len(victims))
    return [Sides(victim.train, outside.rows(part)) for victim, part in zip(victims, parts, strict=True)]


def joined(parts: Sequence[Examples]) -> Examples:
    """All of them, in order."""
    return Examples(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who knows how victims train, and the mixture `start` that their updates were trained from."""

    learner: Learner
    fit: Fit
    start: Tensor
    shadows: int
    seed: int

    def attack(self, updates: Sequence[Tensor], victims: Sequence[Sides], tell: Tell) -> tuple[Attack, Attack]:
        """The loss-threshold and the shadow-model attack on the victims' updates."""
        generator = np.random.default_rng(self.seed)
        scores: list[list[Scores]] = [[], [], [], []]  # of members and others by their loss, by shadow models
        for number, (update, each) in enumerate(zip(updates, victims, strict=False), 1):
            tell(f"seed {self.seed}: {self.shadows} shadow models, victim {number} of {len(victims)}")
            pool, count = each.pool(), len(each.members)
            losses = membership.example_losses(self.learner, update, pool)
            by_loss = membership.loss_scores(losses)
            by_shadows = self._shadow_scores(losses, pool, f"{number}", generator)
            parts = (by_loss[:count], by_loss[count:], by_shadows[:count], by_shadows[count:])
            for found, part in zip(scores, parts, strict=True):
                found.append(part)
        joint = [np.concatenate(found) for found in scores]
        return Attack(joint[0], joint[1]), Attack(joint[2], joint[3])

    def _shadow_scores(self, losses: Scores, pool: Examples, name: str, generator: np.random.Generator) -> Scores:
        inside = membership.random_halves(len(pool), self.shadows, generator)
        shadows = []
        for number, rows in enumerate(inside):
            chosen = pool.rows(torch.from_numpy(rows).nonzero()[:, 0])
            model = self.fit(self.start, chosen, f"shadow {name}/{number}")
            shadows.append(membership.example_losses(self.learner, model, pool))
        return membership.shadow_scores(losses, np.stack(shadows), inside)


def _fitting(learner: Learner, mechanism: Mechanism | None, seed: int) -> Fit:
    """How a member trains a round."""
    secret = hashlib.sha256(f"experiment {seed}".encode()).digest()

    def fit(start: Tensor, data: Examples, context: str) -> Tensor:
        digest = hashlib.sha256(f"{seed}/{context}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        plan = trainer.Plan(learner.task.steps_per_round(len(data)), generator)
        return trainer.train(learner, start, data, plan).flat

    def fit_privately(start: Tensor, data: Examples, context: str) -> Tensor:
        assert mechanism is not None
        plan = PrivatePlan(learner.task.steps_per_round(len(data)), mechanism, round_noise(secret, context, start))
        return private_train(learner, start, data, plan).flat

    return fit if mechanism is None else fit_privately
