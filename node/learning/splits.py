"""Splits of a labelled data set among members, and of a member's part into train and validation. Knows indices only."""

from bisect import bisect_left
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from node.errors import ConfigError

Indices = npt.NDArray[np.int64]
FEWEST = 10  # examples that every member gets, if the data set has as many
TRIES = 100
SPLITS = "iid, stratified, unbalanced, dirichlet:ALPHA, skewed:ALPHA or shards:K"
VALIDATION_PART = 5  # one in five: 80:20


def partition(labels: npt.NDArray[np.int64], split: str, shares: int, seed: int) -> list[Indices]:
    """Disjoint indices of each member's examples, shuffled; together they are the whole data set.

    `iid`; `stratified` (every class in equal parts); `unbalanced` (sizes in proportion to 1, 2, …, n, dealt at random);
    `dirichlet:ALPHA` (each class is cut by Dirichlet proportions, so that sizes differ too; Yurochkin et al.,
    arXiv:1905.12022); `skewed:ALPHA` (equal sizes, each member draws its examples by Dirichlet proportions of the
    classes; Hsu et al., arXiv:1909.06335); `shards:K` (sorted by label, K equal shards each; McMahan et al.,
    arXiv:1602.05629). Raises ConfigError when the split is
    unknown or needs more examples than there are.
    """
    if not 1 <= shares <= len(labels):
        raise ConfigError(f"{shares} shares of {len(labels)} examples: choose between 1 and {len(labels)}")
    generator = np.random.default_rng([seed, shares])
    kind, number = require_split(split)
    match kind:
        case "stratified":
            parts = _stratified(labels, shares, generator)
        case "dirichlet":
            parts = _dirichlet(labels, number, shares, generator)
        case "skewed":
            parts = _skewed(labels, number, shares, generator)
        case "shards":
            parts = _shards(labels, int(number), shares, generator)
        case _:
            parts = _sized(len(labels), _sizes(kind, len(labels), shares, generator), generator)
    fewest = min(FEWEST, len(labels) // shares)
    return [generator.permutation(part) for part in _levelled(parts, fewest)]


def train_validation(indices: Indices) -> tuple[Indices, Indices]:
    """Four fifths to train on and one fifth to validate with; at least one of each if there are two."""
    held = max(1, len(indices) // VALIDATION_PART) if len(indices) > 1 else 0
    return indices[held:], indices[:held]


def require_split(split: str) -> tuple[str, float]:
    """The split's kind and its number (0 where there is none). Raises ConfigError for a split that can't be."""
    kind, colon, argument = split.partition(":")
    if kind in ("iid", "stratified", "unbalanced") and not colon:
        return kind, 0.0
    if kind not in ("dirichlet", "skewed", "shards"):
        raise ConfigError(f"unknown split {split!r}: choose {SPLITS}")
    try:
        value = float(argument)
    except ValueError:
        value = 0.0
    lowest = 1.0 if kind == "shards" else 1e-6
    if not lowest <= value < 1e6:
        raise ConfigError(
            f"split {split!r}: {argument!r} must be from {lowest:g} to below 1e6, as in dirichlet:0.5 or shards:2"
        )
    if kind == "shards" and not value.is_integer():
        raise ConfigError(f"split {split!r}: {argument!r} is no whole number of shards, as in shards:2")
    return kind, value


def _sizes(kind: str, examples: int, shares: int, generator: np.random.Generator) -> list[int]:
    ratio = np.ones(shares) if kind == "iid" else generator.permutation(np.arange(1, shares + 1))
    bounds = np.round(np.cumsum(ratio) / ratio.sum() * examples).astype(int)
    return [int(b - a) for a, b in pairwise([0, *bounds])]


def _stratified(labels: Indices, shares: int, generator: np.random.Generator) -> list[Indices]:
    """Sorted by class, dealt like cards: neither of a class nor in all does anybody have two more than another."""
    order = np.concatenate([generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [order[share::shares] for share in generator.permutation(shares)]


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


def _skewed(labels: Indices, alpha: float, shares: int, generator: np.random.Generator) -> list[Indices]:
    """Members take one example after another, in turn, each from a class drawn by its own proportions.

    A class that is used up leaves everybody's proportions. In turn, and not one member after another as in the paper,
    so that what nobody wanted does not all go to the last.
    """
    classes = np.unique(labels)
    decks = [generator.permutation(np.flatnonzero(labels == label)).tolist() for label in classes]
    wishes = generator.dirichlet(np.full(len(classes), alpha), size=shares) + 1e-12  # at the end nobody is picky
    bounds = np.cumsum(wishes, axis=1).tolist()
    pieces: list[list[int]] = [[] for _ in range(shares)]
    for turn, chance in enumerate((1 - generator.random(len(labels))).tolist()):
        member = turn % shares
        drawn = bisect_left(bounds[member], chance * bounds[member][-1])
        pieces[member].append(decks[drawn].pop())
        if not decks[drawn]:
            wishes[:, drawn] = 0
            bounds = np.cumsum(wishes, axis=1).tolist()
    return [np.array(piece) for piece in pieces]


def _shards(labels: Indices, each: int, shares: int, generator: np.random.Generator) -> list[Indices]:
    if each < 1 or each * shares > len(labels):
        most = max(1, len(labels) // shares)
        raise ConfigError(f"{shares} members can't have {each} shards each of {len(labels)} examples: take 1 to {most}")
    order = np.argsort(labels, kind="stable")
    shards = np.array_split(order, each * shares)
    dealt = generator.permutation(each * shares).reshape(shares, each)
    return [np.concatenate([shards[k] for k in row]) for row in dealt]
