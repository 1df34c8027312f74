"""A node's training under its session's privacy budget (docs/privacy.md): paid for on disk first, with secret noise.

Knows no network and no chain.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from node.config import Privacy
from node.daemon.spending import Spending
from node.errors import ConfigError, HomeError, TaskError
from node.files import write_atomically
from node.home import Home
from node.learning.accounting import Budget, Release, calibrate, spent
from node.learning.privacy import Mechanism, PrivatePlan, private_train
from node.learning.secret_noise import SECRET_BYTES, SecretNoise, round_noise
from node.learning.task import Examples, Learner
from node.learning.trainer import Trained

ACCOUNT = "privacy.json"


@dataclass(frozen=True, slots=True)
class PrivateWay:
    """How a member with so many examples trains: the task with its private batch size and rate, and the mechanism."""

    learner: Learner
    mechanism: Mechanism
    budget: Budget
    steps: int  # of a whole round
    rounds: int  # of the session

    @property
    def release(self) -> Release:
        """What a whole round costs."""
        return self.mechanism.release(self.steps)


@dataclass
class PrivateTraining:
    """One member's private training over all its rounds and restarts."""

    way: PrivateWay
    data: Examples
    spending: Spending
    secret: bytes
    who: str  # session, member and data: others have other noise

    def train(
        self, round: int, flat: torch.Tensor, steps: int, check: Callable[[], bool | None] = lambda: None
    ) -> Trained | None:
        """At most `steps` steps (0: a whole round) from `flat`, None where the budget does not pay for them.

        Repeated after a crash it gives the same bytes, and costs nothing. `check` is that of `private_train`.
        """
        steps = min(steps, self.way.steps) or self.way.steps
        mechanism = self.way.mechanism
        context = f"{self.who}/{round}/{mechanism}/{steps}"
        start = hashlib.sha256(flat.contiguous().numpy().tobytes()).hexdigest()
        key = hashlib.sha256(self.secret).hexdigest()  # other noise over the same gradients is another release
        work = hashlib.sha256(f"{context}/{start}/{key}".encode()).hexdigest()
        if not self.spending.pay(round, mechanism.release(steps), work):
            return None
        plan = PrivatePlan(steps, mechanism, round_noise(self.secret, context, flat))
        return private_train(self.way.learner.in_round(round, self.way.rounds), flat, self.data, plan, check)

    def as_json(self) -> dict[str, Any]:
        """For the status."""
        account, mechanism = self.spending, self.way.mechanism
        return {
            "epsilon": account.epsilon,
            "budget": account.budget.epsilon,
            "delta": account.budget.delta,
            "accountant": account.budget.accountant,
            "noise_multiplier": mechanism.noise_multiplier,
            "sample_rate": mechanism.sample_rate,
            "clip": mechanism.clip,
            "refused_rounds": account.refused,
        }


def private_way(privacy: Privacy, learner: Learner, data: Examples, rounds: int) -> PrivateWay:
    """How a member with these data trains. ConfigError or TaskError for what cannot be."""
    examples, task = len(data), learner.task
    if privacy.delta * examples >= 1:
        raise ConfigError(
            f"the session's delta {privacy.delta:g} protects nobody among {examples} examples: "
            f"it has to be below 1 / {examples}"
        )
    budget = Budget(privacy.epsilon, privacy.delta, privacy.accountant)
    rate = privacy.sample_rate or min(1.0, task.batch_size / examples)
    batch = max(1, round(rate * examples))
    task = replace(task, batch_size=batch, learning_rate=privacy.learning_rate or task.learning_rate)
    steps = task.steps_per_round(examples)
    noise = privacy.noise_multiplier or calibrate(budget, rate, rounds * steps)
    way = PrivateWay(replace(learner, task=task), Mechanism(privacy.clip, noise, rate), budget, steps, rounds)
    first = spent((way.release,), budget)
    if first > budget.epsilon:
        raise ConfigError(
            f"the session's budget of epsilon {budget.epsilon:g} does not pay for one round, which costs {first:.3f} "
            f"with noise multiplier {noise:g}: its creator has to choose more noise, or a lower sample rate"
        )
    _try_one_step(way, data)
    return way


def _try_one_step(way: PrivateWay, data: Examples) -> None:
    """TaskError if the model has no gradients of single examples."""
    few = data.rows(torch.arange(min(2, len(data))))
    plan = PrivatePlan(1, replace(way.mechanism, sample_rate=1.0), SecretNoise(bytes(SECRET_BYTES)))
    try:
        private_train(way.learner, way.learner.initial(), few, plan)
    except (RuntimeError, ValueError, TypeError) as error:
        name, reason = way.learner.task.name, str(error).splitlines()[0]
        raise TaskError(
            f"task {name!r} has no gradients of single examples, which a privacy budget needs: {reason}"
        ) from error


def open_private(home: Home, way: PrivateWay, data: Examples, who: str, recorded: int) -> PrivateTraining:
    """Private training that goes on where this home, or the ledger (`recorded` rounds), left off."""
    spending = Spending.open(home.state / ACCOUNT, way.budget)
    spending.catch_up(recorded, way.release)
    digest = hashlib.sha256()
    for rows in (data.inputs, data.targets):
        digest.update(rows.contiguous().view(torch.uint8).numpy().data)
    return PrivateTraining(way, data, spending, _secret(home), f"{who}/{digest.hexdigest()}")


def _secret(home: Home) -> bytes:
    """The noise's key; a home without one gets it now."""
    try:
        secret = home.noise_key.read_bytes()
    except FileNotFoundError:
        secret = secrets.token_bytes(SECRET_BYTES)
        write_atomically(home.noise_key, secret)
    if len(secret) != SECRET_BYTES:
        raise HomeError(
            f"{home.noise_key} has {len(secret)} bytes, not {SECRET_BYTES}: restore it, or delete it to draw a new one"
        )
    return secret
