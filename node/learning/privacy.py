"""DP-SGD (Abadi et al., arXiv:1607.00133) in the functional training step. Knows no history: see accounting.

What it protects and what not is in docs/privacy.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from node.errors import ConfigError, TaskError
from node.learning.accounting import Budget, Release, calibrate
from node.learning.pure import Loss, batch_loss, require_fit
from node.learning.secret_noise import SecretNoise
from node.learning.task import Examples, Learner, Task
from node.learning.trainer import Trained

GRADIENT_NUMBERS = 1 << 25  # held at a time: 128 MiB of per-example gradients

# (flat, velocity, inputs, targets, present, noise) -> (flat, velocity, loss)
PrivateStep = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Each step adds noise of deviation `noise_multiplier` × `clip` to a sum of gradients of norm `clip` at most."""

    clip: float
    noise_multiplier: float
    sample_rate: float  # chance of each example to be in a batch

    def __post_init__(self) -> None:
        if not 0 < self.clip < float("inf"):
            raise ConfigError(f"clipping norm {self.clip}: must be a positive number")
        self.release(1)

    def release(self, steps: int) -> Release:
        """What so many steps cost: for the accountant. Raises ConfigError for noise or rates that make no sense."""
        return Release(self.noise_multiplier, self.sample_rate, steps)


@dataclass(frozen=True, slots=True)
class PrivatePlan:
    """How much to train, by what mechanism, and the secret randomness of batches and noise."""

    steps: int
    mechanism: Mechanism
    noise: SecretNoise


def mechanism_for(task: Task, examples: int, budget: Budget, rounds: int, clip: float = 1.0) -> Mechanism:
    """The mechanism with which a member spends its budget evenly over the session's rounds.

    Batches have the task's batch size on average; a round has `task.steps_per_round(examples)` steps. Raises
    ConfigError where no noise is enough, or the accountant can't say.
    """
    rate = min(1.0, task.batch_size / max(1, examples))
    return Mechanism(clip, calibrate(budget, rate, rounds * task.steps_per_round(examples)), rate)


def private_step(learner: Learner, loss: Loss, mechanism: Mechanism, expected: float) -> PrivateStep:
    """One step of DP-SGD with the task's learning rate, momentum and weight decay, as a pure function.

    `present` (b,) is 1 for the batch's examples and 0 for padding; `noise` (size,) is standard normal; `expected` is
    the mean batch size, sample rate × examples. Safe under vmap. The loss is the mean over the batch, without noise.
    """
    task = learner.task
    total = clipped_sum(loss, mechanism.clip, max(1, GRADIENT_NUMBERS // learner.spec.size))
    deviation = mechanism.noise_multiplier * mechanism.clip

    def step(
        flat: Tensor, velocity: Tensor, inputs: Tensor, targets: Tensor, present: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        summed, value = total(flat, inputs, targets, present)
        gradient = (summed + deviation * noise) / expected
        if task.weight_decay:
            gradient = gradient + task.weight_decay * flat
        if task.momentum:
            velocity = task.momentum * velocity + gradient
            gradient = velocity
        return flat - task.learning_rate * gradient, velocity, value / present.sum().clamp(min=1.0)

    return step


def clipped_sum(
    loss: Loss, clip: float, chunk: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`(flat, inputs, targets, present) -> (gradient sum (size,), loss sum)`; no example adds more than `clip` to it.

    Gradients of at most `chunk` examples are held at a time. One that is not finite counts as zero.
    """
    of_each = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")

    def total(flat: Tensor, inputs: Tensor, targets: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        summed, value = torch.zeros_like(flat), torch.zeros_like(flat[0])
        parts = zip(*(torch.split(rows, chunk) for rows in (inputs, targets, present)), strict=True)
        for some_inputs, some_targets, here in parts:
            gradients, losses = of_each(flat, some_inputs.unsqueeze(1), some_targets.unsqueeze(1))
            norms = torch.linalg.vector_norm(gradients, dim=1)
            factors = here * torch.where(torch.isfinite(norms), clip / norms.clamp(min=clip), 0.0)
            summed = summed + factors @ torch.nan_to_num(gradients, nan=0.0, posinf=0.0, neginf=0.0)
            value = value + (here * torch.nan_to_num(losses)).sum()
        return summed, value

    return total


def poisson_batch(data: Examples, rate: float, noise: SecretNoise) -> tuple[Examples, Tensor]:
    """Every example with the given chance, and which of the rows count: an empty batch is one row that does not."""
    rows = (noise.uniforms(len(data)) < rate).nonzero().squeeze(1)
    if len(rows) == 0:
        return data.rows(torch.zeros(1, dtype=torch.long)), torch.zeros(1)
    return data.rows(rows), torch.ones(len(rows))


def padded(batch: Examples, present: Tensor, rows: int) -> tuple[Examples, Tensor]:
    """The batch filled up to `rows` with rows that do not count, so that members' batches can be stacked for vmap."""
    missing = rows - len(batch)
    fill = torch.zeros(missing, dtype=torch.long)
    repeated = batch.rows(torch.cat([torch.arange(len(batch)), fill]))
    return repeated, torch.cat([present, torch.zeros(missing)])


def private_train(
    learner: Learner,
    flat: Tensor,
    data: Examples,
    plan: PrivatePlan,
    check: Callable[[], bool | None] = lambda: None,
) -> Trained:
    """Parameters after `plan.steps` private steps from `flat`; costs `plan.mechanism.release(plan.steps)`.

    `check` is called before each step: it stops training by raising, and ends it with what there is by saying True
    after the first step (which costs as much: whether it ends may depend on the data). Raises TaskError when the model
    and the data do not fit each other. `examples` of the result is the expected number: the true one is not for
    others' eyes.
    """
    if len(data) == 0:
        raise TaskError(f"task {learner.task.name!r} has no training examples: its data() must give at least one")
    require_fit(learner, flat, data.rows(torch.arange(1)))
    rate = plan.mechanism.sample_rate
    step = private_step(learner, batch_loss(learner, training=True), plan.mechanism, rate * len(data))
    velocity, total, done = torch.zeros_like(flat), 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(plan.noise.uniforms(1)[0] * 2**53))
        for _ in range(plan.steps):
            if check() and done:
                break
            batch, present = poisson_batch(data, rate, plan.noise)
            noise = plan.noise.normals(learner.spec.size)
            flat, velocity, loss = step(flat, velocity, batch.inputs, batch.targets, present, noise)
            total, done = total + float(loss), done + 1
    return Trained(flat, total / max(1, done), done, round(done * rate * len(data)))
