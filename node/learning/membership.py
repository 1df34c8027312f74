"""Membership inference: how well a curious peer tells from an update which examples it was trained on.

Two attacks give each example a score, higher for members: its loss (Yeom et al., arXiv:1709.01604), and its likelihood
under shadow models that were trained with and without it (LiRA; Carlini et al., arXiv:2112.03570). Knows no sessions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import vmap

from node.learning.pure import batch_loss
from node.learning.task import Examples, Learner
from node.learning.trainer import EVALUATION_CHUNK

NORMAL_95 = 1.959964  # two-sided 95 % quantile of the normal distribution
SURE = 1e-12  # losses are taken to be at least this, so that logits stay finite

Scores = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Leak:
    """What an attack achieves, with 95 % confidence intervals over examples.

    Advantage: true minus false positive rate at a threshold chosen on other examples (0 = guessing). AUC: the chance
    that a member scores above a non-member (0.5 = guessing).
    """

    advantage: float
    advantage_interval: Interval
    auc: float
    auc_interval: Interval


@torch.no_grad()
def example_losses(learner: Learner, flat: Tensor, data: Examples) -> Scores:
    """The loss (n,) of each example by itself."""
    of_each = vmap(batch_loss(learner), in_dims=(None, 0, 0))
    starts = range(0, len(data), EVALUATION_CHUNK)
    chunks = [data.rows(torch.arange(s, min(s + EVALUATION_CHUNK, len(data)))) for s in starts]
    losses = [of_each(flat, chunk.inputs.unsqueeze(1), chunk.targets.unsqueeze(1)) for chunk in chunks]
    return torch.cat(losses).double().numpy()


def loss_scores(losses: Scores) -> Scores:
    """Scores (n,) of the loss-threshold attack."""
    return -losses


def shadow_scores(losses: Scores, shadow_losses: Scores, inside: npt.NDArray[np.bool_]) -> Scores:
    """Scores (n,) of the shadow-model attack: log-likelihood of "trained on it" over "not trained on it".

    `shadow_losses` (shadows, n) and `inside` (shadows, n) say how each shadow model does on each example, and whether
    it was trained on it. Each example must be in some shadow models and not in others. Log-odds of the loss are taken
    for normal, with means of each example's own and one deviation for all (few shadow models are enough then).
    """
    odds, target = _log_odds(shadow_losses), _log_odds(losses)
    if not (inside.any(axis=0) & (~inside).any(axis=0)).all():
        raise ValueError("an example is in all shadow models or in none: train more of them, on random halves")
    means = [_masked_mean(odds, mask) for mask in (inside, ~inside)]
    spreads = [
        float(np.sqrt(np.square(odds - mean)[mask].mean())) for mean, mask in zip(means, (inside, ~inside), strict=True)
    ]
    logs = [
        -0.5 * np.square((target - mean) / max(spread, SURE)) - np.log(max(spread, SURE))
        for mean, spread in zip(means, spreads, strict=True)
    ]
    ratio: Scores = logs[0] - logs[1]
    return ratio


def random_halves(examples: int, shadows: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which examples (shadows, examples) each shadow model is trained on: two models share the pool between them."""
    if shadows < 2 or shadows % 2:
        raise ValueError(f"{shadows} shadow models: choose an even number of at least 2")
    inside = np.zeros((shadows, examples), dtype=np.bool_)
    for pair in range(0, shadows, 2):
        inside[pair, generator.permutation(examples)[: examples // 2]] = True
        inside[pair + 1] = ~inside[pair]
    return inside


def leak(members: Scores, others: Scores, generator: np.random.Generator) -> Leak:
    """How well scores tell members (m,) from others (n,); at least two of each, drawn from the same distribution."""
    if min(len(members), len(others)) < 2:
        raise ValueError(f"{len(members)} members and {len(others)} others: at least two of each are needed")
    advantage, advantage_error = _advantage(generator.permutation(members), generator.permutation(others))
    auc, auc_error = _auc(members, others)
    return Leak(
        advantage,
        (max(-1.0, advantage - advantage_error), min(1.0, advantage + advantage_error)),
        auc,
        (max(0.0, auc - auc_error), min(1.0, auc + auc_error)),
    )


def best_threshold(members: Scores, others: Scores) -> float:
    """The threshold with the largest advantage on these scores; whoever scores above it is called a member."""
    values = np.unique(np.concatenate([members, others]))
    found = 1 - np.searchsorted(np.sort(members), values, side="right") / len(members)
    false = 1 - np.searchsorted(np.sort(others), values, side="right") / len(others)
    return float(values[int(np.argmax(found - false))])


def _advantage(members: Scores, others: Scores) -> tuple[float, float]:
    """Each half is judged by the threshold of the other half: one of its own would flatter the attack."""
    folds = [(members[k::2], others[k::2]) for k in (0, 1)]
    found, false = np.empty(0), np.empty(0)
    for (known_members, known_others), (some_members, some_others) in (folds, folds[::-1]):
        threshold = best_threshold(known_members, known_others)
        found, false = np.append(found, some_members > threshold), np.append(false, some_others > threshold)
    rates = found.mean(), false.mean()
    variance = rates[0] * (1 - rates[0]) / len(found) + rates[1] * (1 - rates[1]) / len(false)
    return float(rates[0] - rates[1]), NORMAL_95 * float(np.sqrt(variance))


def _auc(members: Scores, others: Scores) -> tuple[float, float]:
    """Area under the curve and half its interval (DeLong et al., 1988)."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # takes a second to import

    ranks = rankdata(np.concatenate([members, others]))
    above = (ranks[: len(members)] - rankdata(members)) / len(others)  # of the others, for each member
    below = 1 - (ranks[len(members) :] - rankdata(others)) / len(members)
    variance = above.var(ddof=1) / len(members) + below.var(ddof=1) / len(others)
    return float(above.mean()), NORMAL_95 * float(np.sqrt(variance))


def _log_odds(losses: Scores) -> Scores:
    """log(p / (1 − p)) of the probability p = exp(−loss)."""
    bounded = np.maximum(losses, SURE)
    odds: Scores = -bounded - np.log(-np.expm1(-bounded))
    return odds


def _masked_mean(values: Scores, mask: npt.NDArray[np.bool_]) -> Scores:
    means: Scores = np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0)
    return means
