"""Canonical mixing (docs/protocol.md, section 6): the same inputs give the same bits on any machine.

Knows nothing of how weights came about. No fused and no reordered arithmetic: each product is rounded, then added.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.learning.vectors import CHUNK, Vector
from node.messages import WEIGHT_SUM

Weights = npt.NDArray[np.uint16]


def quantise(row: npt.ArrayLike) -> Weights:
    """Unsigned 16-bit weights (k,) in proportion to `row`, adding up to exactly 65535.

    Largest remainder (Hamilton) in double precision; ties go to the smaller position. Raises ValueError when a weight
    is negative, NaN or infinite, or all are zero.
    """
    weights = np.asarray(row, dtype=np.float64)
    total = float(weights.sum())
    if weights.ndim != 1 or not np.isfinite(total) or bool((weights < 0).any()) or total <= 0:
        raise ValueError(f"trust row {weights.tolist()}: weights must be finite, not negative and not all zero")
    exact = weights / total * WEIGHT_SUM
    whole = np.floor(exact).astype(np.int64)
    left = WEIGHT_SUM - int(whole.sum())
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[:left]] += 1
    return whole.astype(np.uint16)


def proportions(row: npt.ArrayLike) -> Weights:
    """The smallest whole numbers (k,) in exactly the proportions of `row`, if they add up to 65535 at most.

    Where they add up to more, no 16-bit weights say it exactly: then those of `quantise`, which refuses the same rows.
    """
    rounded = quantise(row)
    ratios = [float(weight).as_integer_ratio() for weight in np.asarray(row, dtype=np.float64)]
    common = math.lcm(*(below for _, below in ratios))
    whole = [above * (common // below) for above, below in ratios]
    divisor = math.gcd(*whole)
    return np.array([n // divisor for n in whole], np.uint16) if sum(whole) // divisor <= WEIGHT_SUM else rounded


def dequantise(weights: Weights, total: int = WEIGHT_SUM) -> npt.NDArray[np.float32]:
    """float32(weight) / float32(total), rounded once: the factors that mixing uses."""
    return weights.astype(np.float32) / np.float32(total)


def mix(inputs: Tensor | Sequence[Vector], weights: Weights, total: int = WEIGHT_SUM) -> Tensor:
    """The mixed vector (d,) of float32 inputs (k, d), or k of (d,), in ascending order of member index.

    Inputs of weight 0 are not read, so they may be anything. Raises ValueError when the weights are not one per input,
    or do not add up to `total`, which is 65535 for all rows but those of gradients.
    """
    fits = 1 <= total <= WEIGHT_SUM and int(weights.sum(dtype=np.int64)) == total
    if weights.dtype != np.uint16 or len(weights) != len(inputs) or not fits:
        raise ValueError(
            f"weights {weights.tolist()} for {len(inputs)} inputs: must be uint16 and add up to {total}, "
            f"within 1 and {WEIGHT_SUM}"
        )
    used = [(inputs[j], float(w)) for j, w in enumerate(dequantise(weights, total)) if w > 0]
    mixed = torch.empty(len(used[0][0]), dtype=torch.float32)
    scratch = torch.empty(min(CHUNK, mixed.numel()), dtype=torch.float32)
    for start in range(0, mixed.numel(), CHUNK):
        part = mixed[start : start + CHUNK]
        product = scratch[: part.numel()]
        torch.mul(used[0][0][start : start + CHUNK], used[0][1], out=part)
        for vector, weight in used[1:]:
            torch.mul(vector[start : start + CHUNK], weight, out=product)
            part.add_(product)
    return mixed


def mix_many(updates: Tensor, chosen: Sequence[tuple[int, ...]], rows: Sequence[Weights]) -> Tensor:
    """Mixtures (members, d) of rows of the updates (n, d): each bit for bit what `mix` makes of its chosen updates.

    All members go together, input by input: one product and one sum each, rounded as in `mix`.
    """
    mixed = torch.empty(len(rows), updates.shape[1], dtype=torch.float32)
    order = sorted(range(len(rows)), key=lambda i: (int((rows[i] > 0).sum()), i))
    for used, alike in groupby(order, key=lambda i: int((rows[i] > 0).sum())):
        members = list(alike)
        inputs = torch.tensor([[peer for peer, w in zip(chosen[i], rows[i], strict=True) if w > 0] for i in members])
        weights = torch.from_numpy(np.stack([dequantise(rows[i][rows[i] > 0]) for i in members]))
        for start in range(0, mixed.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            result = updates[inputs[:, 0], part] * weights[:, :1]
            for j in range(1, used):
                result.add_(updates[inputs[:, j], part] * weights[:, j : j + 1])
            mixed[members, part] = result
    return mixed
