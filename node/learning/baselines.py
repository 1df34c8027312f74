"""Robust averaging rules from the literature, to compare with: functions `(own, others, faulty) -> parameters`.

`own` (size,) is our update, `others` (k, size) those of the cohort, `faulty` how many of them are assumed to be bad.
None of them looks at data, and none gives a trust row that a ledger could hold.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor, int], Tensor]
WEISZFELD_STEPS = 32
CLIPPING_STEPS = 1


def coordinate_median(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The median of each number (Yin et al., arXiv:1803.01498)."""
    del faulty
    return _together(own, others).quantile(0.5, dim=0)


def trimmed_mean(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The mean of each number without its `faulty` largest and smallest (Yin et al., arXiv:1803.01498)."""
    ordered = _together(own, others).sort(dim=0).values
    cut = min(faulty, (len(ordered) - 1) // 2)
    return ordered[cut : len(ordered) - cut].mean(dim=0)


def krum(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The update whose nearest neighbours are nearest (Blanchard et al., 2017)."""
    stacked = _together(own, others)
    return stacked[int(_krum_scores(stacked, faulty).argmin())]


def multi_krum(own: Tensor, others: Tensor, faulty: int) -> Tensor:
    """The mean of all but the `faulty` worst by Krum's score."""
    stacked = _together(own, others)
    best = _krum_scores(stacked, faulty).argsort()[: max(1, len(stacked) - faulty)]
    return stacked[best].mean(dim=0)


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

    The radius keeps all but the `faulty` farthest whole.
    """
    moved, others = own, _together(own, others)[1:]
    for _ in range(CLIPPING_STEPS):
        differences = others - moved
        distances = torch.linalg.vector_norm(differences, dim=1)
        radius = distances.sort().values[max(0, len(others) - faulty - 1)]
        factors = (radius / distances.clamp(min=1e-12)).clamp(max=1.0)
        moved = moved + (factors[:, None] * differences).sum(dim=0) / (len(others) + 1)
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


def _together(own: Tensor, others: Tensor) -> Tensor:
    return torch.nan_to_num(torch.cat([own[None], others]), nan=0.0, posinf=0.0, neginf=0.0)


def _krum_scores(stacked: Tensor, faulty: int) -> Tensor:
    """Sum of squared distances (k,) to the k − faulty − 2 nearest others."""
    squared = torch.stack([((stacked - row) ** 2).sum(dim=1) for row in stacked])
    nearest = squared.sort(dim=1).values[:, 1 : max(2, len(stacked) - faulty - 1)]
    return nearest.sum(dim=1)
