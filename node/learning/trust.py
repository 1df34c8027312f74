"""The trust row: how much a member weighs each update, learned by back-propagating through the mixture.

Minimises over the simplex  L(Σ_j w_j θ_j) + λ KL(w ‖ uniform)  on the member's own validation data, by exponentiated
gradient steps on the logits of w, that start from equal sharing and are kept from round to round. Knows no network: an
update is a row of numbers, from a peer that is a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import grad

from node.learning.task import Examples, Learner
from node.learning.trainer import batch_loss

HUGE = 1e3  # times our own norm: an update beyond it is not even looked at
LOGIT_RANGE = 30.0  # exp(−30) is far below half of 1/65535


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """How a row is learned; fixed by the session."""

    objective: str = "common"
    prior_strength: float = 0.1  # λ, in units of the loss
    learning_rate: float = 1.0
    steps: int = 20
    batch_size: int = 256


@dataclass(frozen=True, slots=True)
class TrustState:
    """What a member remembers of its peers: logits (n,) by member index (n,), plain arrays for a checkpoint."""

    members: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    @staticmethod
    def fresh() -> "TrustState":
        """Equal sharing with whoever comes."""
        return TrustState(np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Inputs:
    """Updates (k, size) in ascending order of member index, our own among them at position `own`."""

    members: tuple[int, ...]
    own: int
    stacked: Tensor


@dataclass(frozen=True, slots=True)
class Judge:
    """What a mixture is judged by: the task's loss on the member's own validation data."""

    learner: Learner
    validation: Examples


def learn_row(
    state: TrustState, inputs: Inputs, judge: Judge, settings: TrustSettings, generator: torch.Generator
) -> tuple[TrustState, npt.NDArray[np.float64]]:
    """The state to keep and the trust row (k,), not negative and adding up to 1.

    Updates that are not finite, or huge beside our own, get exactly 0. Deterministic given the generator.
    """
    usable = usable_updates(inputs)
    stacked = torch.where(usable[:, None], inputs.stacked, 0.0)
    logits = torch.from_numpy(recall(state, inputs.members))
    gradient = grad(_mixture_loss(judge))
    for _ in range(settings.steps):
        batch = _batch(judge.validation, settings.batch_size, generator)
        row = softmax_row(logits, usable)
        slope = torch.nan_to_num(gradient(row, stacked, batch.inputs, batch.targets))
        slope = slope - (row * slope).sum() + settings.prior_strength * logits
        logits = (logits - settings.learning_rate * slope).clamp(-LOGIT_RANGE, LOGIT_RANGE)
        logits = logits - logits[usable].mean()
    learned = softmax_row(logits, usable).double()
    return remember(state, inputs.members, logits.numpy()), (learned / learned.sum()).numpy()


def usable_updates(inputs: Inputs) -> Tensor:
    """Which of the updates (k,) are finite and not huge; our own always is."""
    norms: Tensor = torch.linalg.vector_norm(inputs.stacked, dim=1)
    limit = HUGE * norms[inputs.own].clamp(min=1.0)
    usable = torch.isfinite(norms) & (norms <= limit)
    usable[inputs.own] = True
    return usable


def softmax_row(logits: Tensor, usable: Tensor) -> Tensor:
    """Weights (k,) that add up to 1; exactly 0 where an update is not usable."""
    return logits.masked_fill(~usable, float("-inf")).softmax(dim=0)


def recall(state: TrustState, members: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Logits (k,) of these members; 0 of those never met."""
    known = dict(zip(state.members.tolist(), state.logits.tolist(), strict=True))
    return np.array([known.get(member, 0.0) for member in members], dtype=np.float32)


def remember(state: TrustState, members: tuple[int, ...], logits: npt.NDArray[np.float32]) -> TrustState:
    """The state with the logits of these members replaced, in ascending order of member index."""
    known = dict(zip(state.members.tolist(), state.logits.tolist(), strict=True))
    known.update(zip(members, logits.tolist(), strict=True))
    order = sorted(known)
    return TrustState(np.array(order, dtype=np.int64), np.array([known[m] for m in order], dtype=np.float32))


def _mixture_loss(judge: Judge) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    loss = batch_loss(judge.learner)

    def mixture_loss(row: Tensor, stacked: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(row @ stacked, inputs, targets)

    return mixture_loss


def _batch(validation: Examples, size: int, generator: torch.Generator) -> Examples:
    if len(validation) <= size:
        return validation
    return validation.rows(torch.randint(len(validation), (size,), generator=generator))
