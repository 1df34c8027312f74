"""Averaging rules from the literature, to compare the learned row with.

Most are functions `(own, others, faulty) -> parameters`: `own` (size,) is our update, `others` (k, size) those of the
cohort, `faulty` how many of them are assumed to be bad. They look at no data and give no row that a ledger could hold.
The others give a row (k,) of weights, from what is known about the neighbours; L2C is the learned row without screen
and prior. All of them can be mapped with vmap.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from node.learning.trust import TrustSettings

Rule = Callable[[Tensor, Tensor, int], Tensor]
WEISZFELD_STEPS = 32
HUGE = 1e15  # no number of an update counts as more: its square, summed over a model, is finite


def coordinate_median(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The median of each number (Yin et al., arXiv:1803.01498); of an even count the mean of the middle two."""
    del faulty
    ordered = _together(own, others).sort(dim=0).values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def trimmed_mean(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The mean of each number without its `faulty` largest and smallest (Yin et al., arXiv:1803.01498)."""
    ordered = _together(own, others).sort(dim=0).values
    cut = min(faulty, (len(ordered) - 1) // 2)
    return ordered[cut : len(ordered) - cut].mean(dim=0)


def krum(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The update whose nearest neighbours are nearest (Blanchard et al., 2017)."""
    stacked = _together(own, others)
    best = _krum_scores(stacked, faulty).argmin()
    return stacked.index_select(0, best[None]).squeeze(0)


def multi_krum(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The mean of all but the `faulty` worst by Krum's score (Blanchard et al., 2017, leave it open how many)."""
    stacked = _together(own, others)
    best = _krum_scores(stacked, faulty).argsort()[: max(1, len(stacked) - faulty)]
    return stacked.index_select(0, best).mean(dim=0)


def geometric_median(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The point with the least sum of distances, by Weiszfeld steps (RFA; Pillutla et al., arXiv:1912.13445)."""
    del faulty
    stacked = _together(own, others)
    centre = stacked.mean(dim=0)
    for _ in range(WEISZFELD_STEPS):
        weights = 1 / torch.linalg.vector_norm(stacked - centre, dim=1).clamp(min=1e-6)
        centre = (weights / weights.sum()) @ stacked
    return centre


def self_centred_clipping(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """Our update, moved by the others' clipped differences (ClippedGossip; He et al., arXiv:2202.01545).

    The radius keeps all but the `faulty` farthest whole; where nobody else is left, our own update stays.
    """
    if len(others) <= faulty:
        return own
    differences = _together(own, others)[1:] - own
    distances = torch.linalg.vector_norm(differences, dim=1)
    radius = distances.sort().values[len(others) - faulty - 1]
    factors = (radius / distances.clamp(min=1e-12)).clamp(max=1.0)
    moved: Tensor = own + (factors[:, None] * differences).sum(dim=0) / (len(others) + 1)
    return moved


BASELINES: Mapping[str, Rule] = MappingProxyType(
    {
        "median": coordinate_median,
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "multi_krum": multi_krum,
        "geometric_median": geometric_median,
        "clipping": self_centred_clipping,
    }
)
L2C = (
    TrustSettings(  # weights learned by validation alone (Li et al., CVPR 2022): no screen, no prior, never begun anew
        objective="personal", prior_strength=0.0, personal_steps=10, screened=False, warm=True
    )
)
ROWS = ("data_size", "metropolis", "fedfomo", "l2c")


def data_size_row(examples: Tensor) -> Tensor:
    """Weights (k,) in proportion to what members say of their number of examples (McMahan et al., arXiv:1602.05629)."""
    return examples / examples.sum()


def metropolis_row(own: int, degrees: Tensor) -> Tensor:
    """Weights (k,) of 1 / (1 + the larger degree), the rest our own (Xiao, Boyd and Lall, 2005)."""
    row = 1 / (1 + torch.maximum(degrees, degrees[own]))
    row[own] = 0.0
    row[own] = 1 - row.sum()
    return row


def fedfomo_row(own: int, improvements: Tensor, distances: Tensor) -> Tensor:
    """Weights (k,) in proportion to the loss saved per distance from our last model (Zhang et al., arXiv:2012.08565).

    `improvements` (k,) of our validation loss by each update, `distances` (k,) of it from our last model. Where nobody
    saves anything: our own update.
    """
    weights = torch.nan_to_num(improvements / distances.clamp(min=1e-12), 0.0, 0.0, 0.0).clamp(min=0.0)
    ours = torch.nn.functional.one_hot(torch.tensor(own), len(weights)).to(weights.dtype)
    weights = torch.where(weights.sum() > 0, weights, ours)
    return weights / weights.sum()


def _together(own: Tensor, others: Tensor) -> Tensor:
    return torch.nan_to_num(torch.cat([own[None], others]), nan=0.0, posinf=0.0, neginf=0.0).clamp(-HUGE, HUGE)


def _krum_scores(stacked: Tensor, faulty: int) -> Tensor:
    """Sum of squared distances (k,) to the k − faulty − 2 nearest others, faulty at most what Krum is made for.

    That is k ≥ 2 faulty + 3: with fewer neighbours to a score, two colluders with one update are each other's nearest.
    """
    faulty = min(faulty, max(0, (len(stacked) - 3) // 2))
    squared = torch.stack([((stacked - row) ** 2).sum(dim=1) for row in stacked])
    nearest: Tensor = squared.sort(dim=1).values[:, 1 : max(2, len(stacked) - faulty - 1)].sum(dim=1)
    return nearest
