"""The trust row: how much a member weighs each update, learned by back-propagating through the mixture.

The whole rule, for one member i with its update θ_i, those of its peers θ_j, and validation data of its own:

1. Draw up to 512 validation examples without replacement; `common`: up to 1,024, of which step 4 gets one half and
   step 5 the other. The screen is asked with the first 512 of them.
2. Screen (node.learning.screen). Asked in this order, each among those that passed before; our own always passes.
   Sound? New, and not the twin of another one (closer than a hundredth of our step, or of the median distance to ours
   if that is less; of twins the first counts, ours before all)? Within reach: at most 10 times as far from ours as our
   step (or norm) is long? Familiar: at most 1.6 times as far as others usually were? Near the others? Skilled?
   `common`, where fewer than three others passed: who is only too far, and as skilled as we are, passes too if equal
   sharing with it lowers the loss L of step 4 by a hundredth; several only if that is no worse than with the best of
   them alone.
3. w = softmax(z) over those that passed, 0 for the others, from z = 0: equal sharing.
4. Minimise L(Σ_j w_j θ_j) + λ KL(w ‖ uniform) by exponentiated-gradient steps (Kivinen and Warmuth, 1997):
   z ← z − min(1, 1 / 2λ) (slope + λ z), the slope clipped to ±20; 10 steps for `common`, 60 for `personal`.
   `common`: L is the cross-entropy balanced over the classes that the member has, judged among those alone, and
   λ = min(0.3 / coverage², 3), since who sees few classes can judge little. `personal`: the task's loss, λ = 0.003.
5. `common`: the row counts only where the mixture is better than equal sharing's by four standard errors on the other
   examples (no evidence, no preference); else w is equal over those that passed. `personal` has no such test: who has
   few examples could not pass it.

λ, the evidence and the distances of the screen were chosen on validation data: docs/experiments.md. Steps 3 to 5 are
here, node.learning.weigher takes all of them in this order, for one member (a node) or many (the simulation).
Knows no network: an update is numbers, from a peer that is a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning.gradients import gradient_and_value
from node.learning.losses import cross_entropies
from node.learning.pure import mappable_loss, outputs
from node.learning.screen import Memory
from node.learning.task import Learner

Loss = Callable[..., Tensor]
OBJECTIVES = ("common", "personal")
COMMON_PRIOR = 0.3  # λ of a member that has every class, in units of the loss
COVERAGE_POWER = 2
COMMON_PRIOR_LIMIT = 3.0
PERSONAL_PRIOR = 0.003
EVIDENCE = 4.0  # standard errors: one false alarm in some thousand rows
BLOCKS = 16  # of examples, whose losses are compared
LOGIT_RANGE = 30.0  # exp(−30) is far below half of 1/65535
STEEPEST = 20.0  # slope of the loss that one step believes
MASKED = -1e9  # added to the outputs of classes that the member can't judge


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """How a row is learned; fixed by the session."""

    objective: str = "common"
    prior_strength: float | None = None  # λ in units of the loss; None: what the objective wants
    examples: int = 512  # of the validation data, drawn anew each round; `common`: twice as many, half to test on
    common_steps: int = 10
    personal_steps: int = 60  # the optimum is far from equal sharing
    screened: bool = True  # False, and warm: what the literature's learned weights do, to compare with
    warm: bool = False  # start from the last row instead of from equal sharing


@dataclass(frozen=True, slots=True)
class TrustState:
    """What a member remembers of its peers, by member index (n,): plain arrays for a checkpoint.

    `logits` of the last row, for whoever wants to look; a sketch (n, 64) of each peer's last update, and the round it
    was of: enough to see that an update is no new work. And how far from ours (1,) updates that are sound, new and
    within reach usually are, whether they passed or not.
    """

    members: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    sketches: npt.NDArray[np.float32]
    rounds: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float32]

    @staticmethod
    def fresh() -> "TrustState":
        """Equal sharing with whoever comes."""
        nobody = Memory.fresh()
        return TrustState(nobody.members, np.empty(0, np.float32), nobody.sketches, nobody.rounds, nobody.distance)

    def memory(self) -> Memory:
        """The part of it that the screen looks at."""
        return Memory(self.members, self.sketches, self.rounds, self.distance)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Updates (k, size) in ascending order of member index, each of its round, our own among them at position `own`.

    `step` is the distance that our own training went in the round, 0 if it is not known; `sketches` (k, 64) if somebody
    computed them already.
    """

    members: tuple[int, ...]
    rounds: tuple[int, ...]
    own: int
    stacked: Tensor
    step: float = 0.0
    sketches: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one step looks at: updates (k, size), which of them passed (k,), examples (n, …), and the judge's limits."""

    stacked: Tensor
    passed: Tensor
    inputs: Tensor
    targets: Tensor
    held: Tensor  # (classes,): which ones the judge has
    strength: Tensor  # λ, a scalar


def row_of(logits: Tensor, passed: Tensor) -> Tensor:
    """The trust row (…, k): the softmax of the logits of those that passed, exactly 0 for the others."""
    return torch.where(passed, logits, -torch.inf).softmax(dim=-1)


def mixture_loss(learner: Learner, objective: str) -> Loss:
    """What a row (k,) is judged by: the loss of the mixture `(row, stacked, inputs, targets, held)`, a scalar."""
    plain = mappable_loss(learner)

    def loss(row: Tensor, stacked: Tensor, inputs: Tensor, targets: Tensor, held: Tensor) -> Tensor:
        mixture = row @ stacked
        if objective == "personal" or learner.task.classes is None:
            return plain(mixture, inputs, targets)
        return balanced_loss(outputs(learner, mixture, inputs), targets, held)

    return loss


def descend(loss: Loss, logits: Tensor, seen: Evidence) -> Tensor:
    """Logits (…, k) after one exponentiated-gradient step; their mean over those that passed is 0.

    For many members at once with a loss that is mapped over them.
    """
    row, strength = row_of(logits, seen.passed), seen.strength[..., None]
    gradient, _ = gradient_and_value(loss)(row, seen.stacked, seen.inputs, seen.targets, seen.held)
    slope = torch.nan_to_num(gradient)
    slope = (slope - (row * slope).sum(dim=-1, keepdim=True)).clamp(-STEEPEST, STEEPEST)
    rate = (0.5 / strength).clamp(max=1.0)
    moved = torch.where(seen.passed, logits - rate * (slope + strength * logits), 0.0)
    centred = moved - moved.sum(dim=-1, keepdim=True) / seen.passed.sum(dim=-1, keepdim=True)
    return torch.where(seen.passed, centred.clamp(-LOGIT_RANGE, LOGIT_RANGE), 0.0)


def block_losses(learner: Learner) -> Loss:
    """The loss of a mixture, as of `mixture_loss` for objective `common`, in BLOCKS parts (BLOCKS,) of the examples."""

    def losses(row: Tensor, stacked: Tensor, inputs: Tensor, targets: Tensor, held: Tensor) -> Tensor:
        predicted = outputs(learner, row @ stacked, inputs)
        if learner.task.classes is None:
            parts = zip(predicted.tensor_split(BLOCKS), targets.tensor_split(BLOCKS), strict=True)
            return torch.stack([learner.task.loss(*part) for part in parts])
        return torch.stack([part.sum() for part in balanced_losses(predicted, targets, held).tensor_split(BLOCKS)])

    return losses


def is_better(losses: Tensor, others: Tensor) -> Tensor:
    """Whether losses (…, BLOCKS) are lower than others on the same examples, by EVIDENCE standard errors: (…,)."""
    gains = others - losses
    better: Tensor = gains.mean(dim=-1) > EVIDENCE * gains.std(dim=-1) / BLOCKS**0.5
    return better


def balanced_loss(predicted: Tensor, targets: Tensor, held: Tensor) -> Tensor:
    """Cross-entropy of outputs (n, classes) among the held classes (classes,) alone, each class counting the same."""
    return balanced_losses(predicted, targets, held).sum()


def balanced_losses(predicted: Tensor, targets: Tensor, held: Tensor) -> Tensor:
    """What each example (n,) adds to `balanced_loss`."""
    classes = (targets[:, None] == torch.arange(len(held))).float()
    counts = classes.sum(dim=0)
    seen = held & (counts > 0)
    weights = classes @ torch.where(seen, 1 / counts.clamp(min=1.0), 0.0) / seen.sum().clamp(min=1)
    each = cross_entropies(predicted + torch.where(held, 0.0, MASKED), targets)
    return torch.where(weights > 0, each * weights, 0.0)


def prior_strength(settings: TrustSettings, coverage: float) -> float:
    """λ of a judge that has this share of the classes. Raises ConfigError for an unknown objective."""
    if settings.objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective {settings.objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if settings.prior_strength is not None:
        return settings.prior_strength
    if settings.objective == "personal":
        return PERSONAL_PRIOR
    return min(COMMON_PRIOR / max(coverage, 0.01) ** COVERAGE_POWER, COMMON_PRIOR_LIMIT)
