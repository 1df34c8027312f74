"""Splits of a labelled data set among members, and of a member's part into train and validation. Knows indices only."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from node.errors import ConfigError

Indices = npt.NDArray[np.int64]
FEWEST = 10  # examples that every member gets, if the data set has as many
TRIES = 100
VALIDATION_PART = 5  # one in five: 80:20


def partition(labels: npt.NDArray[np.int64], split: str, shares: int, seed: int) -> list[Indices]:
    """Disjoint indices of each member's examples, shuffled; together they are the whole data set.

    `iid`; `unbalanced` (sizes in proportion to 1, 2, …, n, dealt at random); `dirichlet:ALPHA` (each class by Dirichlet
    proportions; Hsu et al., arXiv:1909.06335); `shards:K` (sorted by label, K equal shards each; McMahan et al.,
    arXiv:1602.05629). Raises ConfigError when the split is unknown or needs more examples than there are.
    """
    if not 1 <= shares <= len(labels):
        raise ConfigError(f"{shares} shares of {len(labels)} examples: choose between 1 and {len(labels)}")
    generator = np.random.default_rng([seed, shares])
    kind, _, argument = split.partition(":")
    match kind:
        case "iid" | "unbalanced" if not argument:
            parts = _sized(len(labels), _sizes(kind, len(labels), shares, generator), generator)
        case "dirichlet":
            parts = _dirichlet(labels, _positive(split, argument), shares, generator)
        case "shards":
            parts = _shards(labels, int(_positive(split, argument)), shares, generator)
        case _:
            raise ConfigError(f"unknown split {split!r}: choose iid, unbalanced, dirichlet:ALPHA or shards:K")
    fewest = min(FEWEST, len(labels) // shares)
    return [generator.permutation(part) for part in _levelled(parts, fewest)]


def train_validation(indices: Indices) -> tuple[Indices, Indices]:
    """Four fifths to train on and one fifth to validate with; at least one of each if there are two."""
    held = max(1, len(indices) // VALIDATION_PART) if len(indices) > 1 else 0
    return indices[held:], indices[:held]


def _positive(split: str, argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ConfigError(f"split {split!r}: {argument!r} must be a number above 0, as in dirichlet:0.5 or shards:2")
    return value


def _sizes(kind: str, examples: int, shares: int, generator: np.random.Generator) -> list[int]:
    ratio = np.ones(shares) if kind == "iid" else generator.permutation(np.arange(1, shares + 1))
    bounds = np.round(np.cumsum(ratio) / ratio.sum() * examples).astype(int)
    return [int(b - a) for a, b in pairwise([0, *bounds])]


def _sized(examples: int, sizes: list[int], generator: np.random.Generator) -> list[Indices]:
    return np.split(generator.permutation(examples), np.cumsum(sizes)[:-1])


def _dirichlet(labels: Indices, alpha: float, shares: int, generator: np.random.Generator) -> list[Indices]:
    """Drawn again, a bounded number of times, until everybody has a few examples."""
    fewest = min(FEWEST, len(labels) // shares)
    parts: list[Indices] = []
    for _ in range(TRIES if shares <= 100 else 1):
        parts = _dirichlet_draw(labels, alpha, shares, generator)
        if min(len(part) for part in parts) >= fewest:
            break
    return parts


def _levelled(parts: list[Indices], fewest: int) -> list[Indices]:
    """The parts, after the richest gave some of theirs to those who have fewer than `fewest`."""
    parts = list(parts)
    for i in range(len(parts)):
        while (wanted := fewest - len(parts[i])) > 0:
            richest = max(range(len(parts)), key=lambda j: len(parts[j]))
            given = min(wanted, len(parts[richest]) - fewest)
            parts[i] = np.append(parts[i], parts[richest][:given])
            parts[richest] = parts[richest][given:]
    return parts


def _dirichlet_draw(labels: Indices, alpha: float, shares: int, generator: np.random.Generator) -> list[Indices]:
    pieces: list[list[Indices]] = [[] for _ in range(shares)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        bounds = (np.cumsum(generator.dirichlet(np.full(shares, alpha))) * len(members)).astype(int)[:-1]
        for piece, part in zip(pieces, np.split(members, bounds), strict=True):
            piece.append(part)
    return [np.concatenate(piece) for piece in pieces]


def _shards(labels: Indices, each: int, shares: int, generator: np.random.Generator) -> list[Indices]:
    if each < 1 or each * shares > len(labels):
        raise ConfigError(f"{shares} members of {each} shards each: {len(labels)} examples make no so many shards")
    order = np.argsort(labels, kind="stable")
    shards = np.array_split(order, each * shares)
    dealt = generator.permutation(each * shares).reshape(shares, each)
    return [np.concatenate([shards[k] for k in row]) for row in dealt]
