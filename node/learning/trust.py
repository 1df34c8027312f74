"""The trust row: how much a member weighs each update, learned by back-propagating through the mixture.

First every update is screened (node.learning.screen); then the weights of those that pass minimise

    L(Σ_j w_j θ_j) + λ KL(w ‖ uniform)

over the simplex on the member's own validation data, by exponentiated-gradient steps (Kivinen and Warmuth, 1997) from
equal sharing. Objective `common`: L is balanced over the classes that the member has and judges among those alone, and
λ = 0.3 / coverage², since who sees few classes can judge little. Objective `personal`: L is the task's loss, λ = 0.003.
Chosen on validation data: docs/experiments.md. Knows no network: an update is numbers, from a peer that is a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import grad

from node.errors import ConfigError
from node.learning.screen import Inputs, Judge, Memory, held_classes, passes, remembered
from node.learning.task import Examples
from node.learning.trainer import batch_loss, outputs

__all__ = ["OBJECTIVES", "Inputs", "Judge", "TrustSettings", "TrustState", "learn_row"]

OBJECTIVES = ("common", "personal")
COMMON_PRIOR = 0.3  # λ of a member that has every class, in units of the loss
COMMON_PRIOR_LIMIT = 3.0
PERSONAL_PRIOR = 0.003
PERSONAL_STEPS = 3  # times as many: the optimum is far from equal sharing
LOGIT_RANGE = 30.0  # exp(−30) is far below half of 1/65535
STEEPEST = 20.0  # slope of the loss that one step believes
MASKED = -1e9  # added to the outputs of classes that the member can't judge

MixtureLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (row, stacked, inputs, targets) -> scalar


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """How a row is learned; fixed by the session."""

    objective: str = "common"
    prior_strength: float | None = None  # λ in units of the loss; None: what the objective wants
    steps: int = 20
    batch_size: int = 256


@dataclass(frozen=True, slots=True)
class TrustState:
    """What a member remembers of its peers, by member index (n,): plain arrays for a checkpoint.

    `logits` of the last row, for whoever wants to look; a sketch (n, 64) of each peer's last update, and how often in a
    row it was the same: enough to see that an update is no new work.
    """

    members: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    sketches: npt.NDArray[np.float32]
    repeats: npt.NDArray[np.int64]

    @staticmethod
    def fresh() -> "TrustState":
        """Equal sharing with whoever comes."""
        nobody = Memory.fresh()
        return TrustState(nobody.members, np.empty(0, np.float32), nobody.sketches, nobody.repeats)

    def memory(self) -> Memory:
        """The part of it that the screen looks at."""
        return Memory(self.members, self.sketches, self.repeats)


def learn_row(
    state: TrustState, inputs: Inputs, judge: Judge, settings: TrustSettings, generator: torch.Generator
) -> tuple[TrustState, npt.NDArray[np.float64]]:
    """The state to keep and the trust row (k,), not negative and adding up to 1.

    An update that the screen stops gets exactly 0; our own never does. Deterministic given the generator. Raises
    ConfigError for an unknown objective.
    """
    if settings.objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {settings.objective!r}: choose one of {', '.join(OBJECTIVES)}")
    passed = passes(inputs, judge, state.memory())
    stacked = inputs.stacked[passed]
    logits = _descend(stacked, judge, settings, generator)
    row = np.zeros(len(inputs.members))
    row[passed.numpy()] = logits.double().softmax(dim=0).numpy()
    kept = np.full(len(inputs.members), -LOGIT_RANGE, np.float32)
    kept[passed.numpy()] = logits.numpy()
    return _next_state(state, inputs, kept), row / row.sum()


def _descend(stacked: Tensor, judge: Judge, settings: TrustSettings, generator: torch.Generator) -> Tensor:
    """Logits (k,) of the learned weights; their mean is 0."""
    logits = torch.zeros(len(stacked))
    if len(stacked) == 1 or len(judge.validation) == 0:
        return logits
    personal = settings.objective == "personal"
    strength = _prior_strength(judge, settings)
    rate = min(1.0, 0.5 / strength)
    gradient = grad(_personal_loss(judge) if personal else _common_loss(judge))
    for _ in range(settings.steps * (PERSONAL_STEPS if personal else 1)):
        batch = _batch(judge.validation, settings.batch_size, generator)
        row = logits.softmax(dim=0)
        slope = torch.nan_to_num(gradient(row, stacked, batch.inputs, batch.targets))
        slope = (slope - (row * slope).sum()).clamp(-STEEPEST, STEEPEST)
        logits = logits - rate * (slope + strength * logits)
        logits = (logits - logits.mean()).clamp(-LOGIT_RANGE, LOGIT_RANGE)
    return logits


def _prior_strength(judge: Judge, settings: TrustSettings) -> float:
    if settings.prior_strength is not None:
        return settings.prior_strength
    if settings.objective == "personal":
        return PERSONAL_PRIOR
    held = held_classes(judge)
    coverage = 1.0 if held is None else float(held.float().mean())
    return min(COMMON_PRIOR / coverage**2, COMMON_PRIOR_LIMIT)


def _personal_loss(judge: Judge) -> MixtureLoss:
    loss = batch_loss(judge.learner)
    return lambda row, stacked, inputs, targets: loss(row @ stacked, inputs, targets)


def _common_loss(judge: Judge) -> MixtureLoss:
    """Cross-entropy among the classes that the member has, every class counting the same; else the task's loss."""
    held = held_classes(judge)
    if held is None:
        return _personal_loss(judge)
    counts = torch.bincount(judge.validation.targets, minlength=len(held)).float()
    weights = torch.where(held, 1 / counts.clamp(min=1.0), 0.0) * len(judge.validation) / held.sum()
    mask = torch.where(held, 0.0, MASKED)

    def loss(row: Tensor, stacked: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        predicted = outputs(judge.learner, row @ stacked, inputs) + mask
        each = torch.nn.functional.cross_entropy(predicted, targets, reduction="none")
        counted = weights[targets]
        return torch.where(counted > 0, each * counted, 0.0).mean()

    return loss


def _next_state(state: TrustState, inputs: Inputs, logits: npt.NDArray[np.float32]) -> TrustState:
    known = dict(zip(state.members.tolist(), state.logits.tolist(), strict=True))
    known.update(zip(inputs.members, logits.tolist(), strict=True))
    memory = remembered(state.memory(), inputs)
    kept = np.array([known[member] for member in memory.members.tolist()], dtype=np.float32)
    return TrustState(memory.members, kept, memory.sketches, memory.repeats)


def _batch(validation: Examples, size: int, generator: torch.Generator) -> Examples:
    if len(validation) <= size:
        return validation
    return validation.rows(torch.randint(len(validation), (size,), generator=generator))
