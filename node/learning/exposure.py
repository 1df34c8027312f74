"""What a curious peer learns from an update, with and without differential privacy: a session in memory, attacked.

The attacker is a peer that has all updates, knows the victim's way of training and which examples come into question:
victims' training sets (members) and examples of the same kind that nobody trains on (others; a data set's own test
images may be a little easier, so they would not do). It attacks victims' last updates; its shadow models start from the
mixture that the victims started from. Equal weights, full cohorts. Knows no network.
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
from node.learning.task import Examples, Learner, LocalSplit, Share, prepare
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
    seed: int = 0
    delta: float = 1e-5
    batch_size: int = 400  # of private members, on average
    learning_rate: float = 1.0  # of private members
    clip: float = 1.0
    accountant: str = "prv"


@dataclass(frozen=True, slots=True)
class Exposure:
    """One session, and what the attacks on an update of it achieve; advantage and AUC are those of the better one."""

    epsilon: float | None  # the budget; None without privacy
    accuracy: float  # of the mixture, on the test data, a fraction
    membership_advantage: float
    membership_advantage_interval: Interval  # 95 %, over examples
    auc: float
    auc_interval: Interval
    epsilon_spent: float | None  # as the accountant says after the last round
    noise_multiplier: float | None
    update_accuracy: float  # of the first member's last update
    loss_threshold: Leak
    shadow_models: Leak


def compare(setting: Setting, epsilons: Sequence[float], tell: Tell = lambda _line: None) -> Iterator[Exposure]:
    """The session without privacy, then with each budget. The same setting gives the same numbers.

    The noise depends on the seed here, so that anybody can repeat the experiment: no node does that.
    Raises ConfigError or TaskError.
    """
    if setting.members < 2 or setting.shadows < 2 or setting.shadows % 2:
        raise ConfigError(
            f"{setting.members} members and {setting.shadows} shadow models: at least 2 of each, and shadows in pairs"
        )
    learner = prepare(load_task(setting.task), setting.seed)
    if learner.task.classes is None:
        raise ConfigError(
            f"task {learner.task.name!r} has no classes: the accuracy beside the privacy would be missing"
        )
    count = setting.members + 1
    splits = [
        learner.task.data(Share(setting.data_dir, i, count, "iid", setting.seed)) for i in range(count)
    ]  # the last one is nobody's
    for epsilon in (None, *epsilons):
        yield expose(learner, splits, epsilon, setting, tell)


def expose(
    learner: Learner, splits: Sequence[LocalSplit], epsilon: float | None, setting: Setting, tell: Tell
) -> Exposure:
    """One session, and the attacks on some of its members."""
    name = "without privacy" if epsilon is None else f"epsilon {epsilon:g}"
    mechanism = total = None
    if epsilon is not None:
        task = replace(learner.task, learning_rate=setting.learning_rate, batch_size=setting.batch_size)
        learner = replace(learner, task=task)
        budget = Budget(epsilon, setting.delta, setting.accountant)
        mechanism = mechanism_for(task, len(splits[0].train), budget, setting.rounds, setting.clip)
        total = spent((mechanism.release(setting.rounds * task.steps_per_round(len(splits[0].train))),), budget)
    mixed, weights = learner.initial(), quantise(np.ones(setting.members))
    tell(f"{name}: {setting.rounds} rounds of {setting.members} members")
    for round in range(1, setting.rounds + 1):
        start, fit = mixed, _fitting(learner.in_round(round, setting.rounds), mechanism, setting.seed)
        updates = [fit(start, split.train, f"{i}/{round}") for i, split in enumerate(splits[:-1])]
        mixed = mix(updates, weights)
    attacker = Attacker(learner, fit, start, setting)
    by_loss, by_shadows = attacker.attack(updates, sides(splits, setting), lambda line: tell(f"{name}: {line}"))
    best = max(by_loss, by_shadows, key=lambda leak: leak.advantage)
    clearest = max(by_loss, by_shadows, key=lambda leak: leak.auc)
    seen = [trainer.evaluate(learner, flat, splits[0].test)["accuracy"] for flat in (mixed, updates[0])]
    return Exposure(
        epsilon=epsilon,
        accuracy=seen[0],
        membership_advantage=best.advantage,
        membership_advantage_interval=best.advantage_interval,
        auc=clearest.auc,
        auc_interval=clearest.auc_interval,
        epsilon_spent=total,
        noise_multiplier=None if mechanism is None else mechanism.noise_multiplier,
        update_accuracy=seen[1],
        loss_threshold=by_loss,
        shadow_models=by_shadows,
    )


@dataclass(frozen=True, slots=True)
class Sides:
    """The training set of a victim, and as good examples that nobody trained on."""

    members: Examples
    others: Examples

    def pool(self) -> Examples:
        """Both, members first."""
        return joined([self.members, self.others])


def sides(splits: Sequence[LocalSplit], setting: Setting) -> list[Sides]:
    """The first few members as victims; what nobody trained on is dealt out to them, so that no example counts twice.

    That is the last split, and the validation data of all, which equal weights make no use of.
    """
    outside = joined([splits[-1].train, *(split.validation for split in splits)])
    order = torch.from_numpy(np.random.default_rng(setting.seed).permutation(len(outside)))
    victims = splits[: min(VICTIMS, setting.members)]
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
    setting: Setting

    def attack(self, updates: Sequence[Tensor], victims: Sequence[Sides], tell: Tell) -> tuple[Leak, Leak]:
        """The loss-threshold and the shadow-model attack on the victims' updates, judged together."""
        generator = np.random.default_rng(self.setting.seed)
        scores: list[list[Scores]] = [[], [], [], []]  # of members and others by their loss, by shadow models
        for number, (update, each) in enumerate(zip(updates, victims, strict=False), 1):
            tell(f"{self.setting.shadows} shadow models, victim {number} of {len(victims)}")
            pool, count = each.pool(), len(each.members)
            losses = membership.example_losses(self.learner, update, pool)
            by_loss = membership.loss_scores(losses)
            by_shadows = self._shadow_scores(losses, pool, f"{number}", generator)
            parts = (by_loss[:count], by_loss[count:], by_shadows[:count], by_shadows[count:])
            for found, part in zip(scores, parts, strict=True):
                found.append(part)
        joint = [np.concatenate(found) for found in scores]
        return membership.leak(joint[0], joint[1], generator), membership.leak(joint[2], joint[3], generator)

    def _shadow_scores(self, losses: Scores, pool: Examples, name: str, generator: np.random.Generator) -> Scores:
        inside = membership.random_halves(len(pool), self.setting.shadows, generator)
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
