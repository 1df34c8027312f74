"""Privacy against accuracy: DP-SGD in a session, and what two membership-inference attacks learn from one update.

    python scripts/bench/privacy.py [--epsilons none,8,3,1] [--rounds 20] [--shadows 16] [--json]

Six members with equal shares, equal weights and a full cohort. Private members use batches of 400 on average, the
learning rate 1.0 and the clipping norm 1.0; the row without privacy is the task as it is. The attacker is a peer that
has all updates, knows the victim's way of training and which examples come into question: the victim's training set
(members) and a seventh share that nobody trains on (others; the data set's own test images are a little easier, so they
would not do). It attacks the victim's last update; its shadow models start from the mixture that the victim started
from. Accuracy is on the test images. Intervals are 95 %. Takes about 4 minutes on one core.
"""

import argparse
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from node.errors import NodeError
from node.learning import membership, trainer
from node.learning.accounting import Budget, spent
from node.learning.membership import Leak
from node.learning.mixing import mix, quantise
from node.learning.privacy import Mechanism, PrivatePlan, mechanism_for, private_train
from node.learning.secret_noise import round_noise
from node.learning.task import Examples, Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task

DELTA = 1e-5
Fit = Callable[[Tensor, Examples, str], Tensor]  # (start, data, context) -> parameters after one round


@dataclass(frozen=True)
class Setting:
    task: str
    members: int
    rounds: int
    shadows: int
    seed: int


@dataclass(frozen=True)
class Sides:
    members: Examples
    others: Examples
    shadows: int
    seed: int


@dataclass(frozen=True)
class Row:
    epsilon: float | None  # as the accountant says after the last round; None without privacy
    accuracy: float  # percent, of the mixture
    update_accuracy: float  # percent, of the victim's last update
    noise_multiplier: float | None
    membership_advantage: float  # the larger one of the two attacks
    auc: float  # likewise
    by_loss: Leak
    by_shadows: Leak
    seconds: float


def fitting(learner: Learner, mechanism: Mechanism | None) -> Fit:
    """How a member trains a round."""

    def fit(start: Tensor, data: Examples, context: str) -> Tensor:
        digest = hashlib.sha256(context.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        plan = trainer.Plan(learner.task.steps_per_round(len(data)), generator)
        return trainer.train(learner, start, data, plan).flat

    secret = secrets.token_bytes(32)

    def fit_privately(start: Tensor, data: Examples, context: str) -> Tensor:
        assert mechanism is not None
        steps = learner.task.steps_per_round(len(data))
        plan = PrivatePlan(steps, mechanism, round_noise(secret, context, start))
        return private_train(learner, start, data, plan).flat

    return fit if mechanism is None else fit_privately


def session(splits: list[LocalSplit], start: Tensor, fit: Fit, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """The victim's last update, the mixture it started from, and the mixture in the end."""
    mixed, weights = start, quantise(np.ones(len(splits)))
    for round in range(rounds):
        before = mixed
        updates = [fit(before, split.train, f"{i}/{round}") for i, split in enumerate(splits)]
        mixed = mix(updates, weights)
    return updates[0], before, mixed


def attacks(learner: Learner, fit: Fit, start: Tensor, update: Tensor, sides: Sides) -> tuple[Leak, Leak]:
    """The loss-threshold and the shadow-model attack on one update that was trained from `start`."""
    pool = Examples(
        torch.cat([sides.members.inputs, sides.others.inputs]), torch.cat([sides.members.targets, sides.others.targets])
    )
    generator = np.random.default_rng(sides.seed)
    inside = membership.random_halves(len(pool), sides.shadows, generator)
    losses = membership.example_losses(learner, update, pool)
    models = [
        fit(start, pool.rows(torch.from_numpy(rows).nonzero()[:, 0]), f"shadow {i}") for i, rows in enumerate(inside)
    ]
    shadow_losses = np.stack([membership.example_losses(learner, model, pool) for model in models])
    count = len(sides.members)
    scores = membership.loss_scores(losses), membership.shadow_scores(losses, shadow_losses, inside)
    by_loss, by_shadows = (membership.leak(score[:count], score[count:], generator) for score in scores)
    return by_loss, by_shadows


def measure(learner: Learner, splits: list[LocalSplit], epsilon: float | None, setting: Setting) -> Row:
    """One session, and the attacks on its first member; the last split is nobody's."""
    began = time.perf_counter()
    victim, outside = splits[0].train, splits[-1].train
    mechanism = total = None
    if epsilon is not None:
        learner = replace(learner, task=replace(learner.task, learning_rate=1.0, batch_size=400))
        budget = Budget(epsilon, DELTA)
        mechanism = mechanism_for(learner.task, len(victim), budget, setting.rounds)
        steps = setting.rounds * learner.task.steps_per_round(len(victim))
        total = round(spent((mechanism.release(steps),), budget), 4)
    fit = fitting(learner, mechanism)
    update, start, mixed = session(splits[:-1], learner.initial(), fit, setting.rounds)
    leaks = attacks(learner, fit, start, update, Sides(victim, outside, setting.shadows, setting.seed))
    scores = [trainer.evaluate(learner, flat, splits[0].test)["accuracy"] for flat in (mixed, update)]
    return Row(
        epsilon=total,
        accuracy=round(100 * scores[0], 2),
        update_accuracy=round(100 * scores[1], 2),
        noise_multiplier=None if mechanism is None else round(mechanism.noise_multiplier, 4),
        membership_advantage=max(leak.advantage for leak in leaks),
        auc=max(leak.auc for leak in leaks),
        by_loss=leaks[0],
        by_shadows=leaks[1],
        seconds=round(time.perf_counter() - began, 1),
    )


def shown(row: Row) -> str:
    name = "none" if row.epsilon is None else f"{row.epsilon:.2f}"
    parts = [f"epsilon {name:>5}  accuracy {row.accuracy:5.2f}%"]
    for attack, leak in (("loss", row.by_loss), ("shadow", row.by_shadows)):
        low, high = leak.advantage_interval
        parts.append(f"{attack}: advantage {leak.advantage:+.2%} ({low:+.2%} to {high:+.2%}) AUC {leak.auc:.3f}")
    return "  ".join(parts) + f"  {row.seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist-softmax")
    parser.add_argument("--epsilons", default="none,8,3,1")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shadows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(arguments.task, arguments.members, arguments.rounds, arguments.shadows, arguments.seed)
    rows = []
    try:
        learner = prepare(load_task(setting.task), setting.seed)
        shares = [Share(None, i, setting.members + 1, "iid", setting.seed) for i in range(setting.members + 1)]
        splits = [learner.task.data(share) for share in shares]
        for text in arguments.epsilons.split(","):
            rows.append(measure(learner, splits, None if text == "none" else float(text), setting))
            print(shown(rows[-1]), file=sys.stderr)
    except NodeError as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps({"setting": asdict(setting), "delta": DELTA, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
