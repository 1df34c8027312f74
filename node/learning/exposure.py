"""What a curious peer learns from an update, with and without differential privacy: a session in memory, attacked.

The attacker is a peer that has all updates, knows the victim's way of training and which examples come into question:
the victim's training set (members) and a share that nobody trains on (others; a data set's own test images may be a
little easier, so they would not do). It attacks the victim's last update; its shadow models start from the mixture that
the victim started from. Equal weights, full cohorts. Knows no network.
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
from node.learning.membership import Interval, Leak
from node.learning.mixing import mix, quantise
from node.learning.privacy import Mechanism, PrivatePlan, mechanism_for, private_train
from node.learning.secret_noise import round_noise
from node.learning.task import Examples, Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task

Fit = Callable[[Tensor, Examples, str], Tensor]  # (start, data, context) -> parameters after one round
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One comparison: the task as it is without a budget, and with these changes for DP-SGD under each epsilon."""

    task: str = "mnist-softmax"
    data_dir: Path | None = None
    members: int = 6
    rounds: int = 10
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
    update_accuracy: float  # of the victim's last update
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
    """One session, and the attacks on its first member."""
    name = "without privacy" if epsilon is None else f"epsilon {epsilon:g}"
    victim = splits[0].train
    mechanism = total = None
    if epsilon is not None:
        task = replace(learner.task, learning_rate=setting.learning_rate, batch_size=setting.batch_size)
        learner = replace(learner, task=task)
        budget = Budget(epsilon, setting.delta, setting.accountant)
        mechanism = mechanism_for(task, len(victim), budget, setting.rounds, setting.clip)
        total = spent((mechanism.release(setting.rounds * task.steps_per_round(len(victim))),), budget)
    fit = _fitting(learner, mechanism, setting.seed)
    mixed, weights = learner.initial(), quantise(np.ones(setting.members))
    for round in range(1, setting.rounds + 1):
        tell(f"{name}: round {round} of {setting.rounds}")
        start = mixed
        updates = [fit(start, split.train, f"{i}/{round}") for i, split in enumerate(splits[:-1])]
        mixed = mix(updates, weights)
    tell(f"{name}: {setting.shadows} shadow models")
    by_loss, by_shadows = attack(learner, fit, start, updates[0], (victim, splits[-1].train), setting)
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


def attack(
    learner: Learner, fit: Fit, start: Tensor, update: Tensor, sides: tuple[Examples, Examples], setting: Setting
) -> tuple[Leak, Leak]:
    """The loss-threshold and the shadow-model attack on an update that was trained from `start`.

    `sides` are its training set, and as good examples that it never saw.
    """
    members, others = sides
    pool = Examples(torch.cat([members.inputs, others.inputs]), torch.cat([members.targets, others.targets]))
    generator = np.random.default_rng(setting.seed)
    inside = membership.random_halves(len(pool), setting.shadows, generator)
    losses = membership.example_losses(learner, update, pool)
    models = (
        fit(start, pool.rows(torch.from_numpy(rows).nonzero()[:, 0]), f"shadow {i}") for i, rows in enumerate(inside)
    )
    shadow_losses = np.stack([membership.example_losses(learner, model, pool) for model in models])
    scores = membership.loss_scores(losses), membership.shadow_scores(losses, shadow_losses, inside)
    by_loss, by_shadows = (membership.leak(score[: len(members)], score[len(members) :], generator) for score in scores)
    return by_loss, by_shadows


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
