"""The screen before the trust row: plain questions that an update must pass to be given any weight at all.

Sound?   finite, and its norm at most 1,000 times our own.
New?     not what somebody else sent before, nor its sender's own work of another round (stale, constant, copied); of
         several that are the same in a round, one counts, ours if it is among them (colluding copies). Same is within a
         hundredth of the typical distance to ours, or of our own step, which no attacker can lengthen.
Reach?   its distance to ours is at most ten times what our own training went, or our norm if that is more.
Near?    its median distance to the other updates is at most 1.6 + 5 / √size times the typical one (small models vary
         more), or what was usual in earlier rounds, since honest steps differ by more than that where all are short;
         and its distance to ours at most 1.6 times what was usual, so that attackers who are the majority of one cohort
         don't set the measure (sign flips, noise, dissensus).
Skilled? on the classes that we have, and judged among those alone, its recall is at least half of the median peer's
         and a quarter of ours (flipped labels, inner-product manipulation). Honest peers that know other classes pass:
         among ours they are no worse than ignorant, while a poisoned update is.
Useful?  Among few a distance tells little. Where fewer than three others passed, who is skilled and only too far is let
         in (`common`) if it knows as much of our classes as we do, and equal sharing with it has a loss on our
         validation examples that is lower by a hundredth at least; of several the best, or all if together they are no
         worse. A member with many examples goes farther than its neighbours, and nobody else may bring what it knows.

The distances (1.6) and the last question were chosen on validation data (docs/experiments.md); the other
thresholds are round numbers, for which there is no measurement of their own. Every question is a function of one
member's view; node.learning.weigher asks them, the last one by the mixture's own loss. Knows no network.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.learning.pure import mappable_loss, outputs
from node.learning.task import Learner

HUGE = 1e3  # times our own norm: beyond it, an update is not even looked at
SAME = 0.01  # of how far updates typically are from ours, or of our own step if that is less: closer is no new work
FAR = 1.6  # times the typical distance
FAMILIAR = 1.6  # times the usual distance to ours
GROWTH = 1.25  # times what the usual distance was, at most, after a round: a healed partition soon grows together
REACH = 10.0  # times the norm of ours, or the distance that our own training went
FEW_NUMBERS = 5.0  # over √size is added to it: distances between small models vary more
SKILL = 0.5  # of the median peer's
FEW = 3  # that passed, ours among them: not enough to tell who is far
AS_SKILLED = 0.95  # of ours, which 512 examples tell to some percent
USEFUL = 0.99  # of the loss without it
SKETCH = 64  # numbers kept of an update of any size


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the peers (n,) met so far, by ascending member index: a sketch (n, 64) of the last update, and its round.

    And the usual distance (1,) of updates to ours; 0 before the first.
    """

    members: npt.NDArray[np.int64]
    sketches: npt.NDArray[np.float32]
    rounds: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float32]

    @staticmethod
    def fresh() -> "Memory":
        """Nobody was met yet."""
        no_rounds, nowhere = np.empty(0, np.int64), np.zeros(1, np.float32)
        return Memory(np.empty(0, np.int64), np.empty((0, SKETCH), np.float32), no_rounds, nowhere)


def sound(stacked: Tensor, own: Tensor) -> Tensor:
    """Which updates (k,) of (k, size) are finite and not huge; `own` (k,) marks ours."""
    norms: Tensor = torch.linalg.vector_norm(stacked, dim=-1)
    limit = HUGE * torch.where(own, norms, 0.0).sum(dim=-1, keepdim=True).clamp(min=1.0)
    return torch.isfinite(norms) & (norms <= limit)


def new(sketches: Tensor, members: tuple[int, ...], rounds: tuple[int, ...], memory: Memory, scale: float) -> Tensor:
    """Which updates (k,) are new work, by their sketches (k, 64); for `scale` see `first_of_its_kind`.

    A peer that is behind may be met again with the same update of the same round; one that sends old work as that of
    another round, or what somebody else sent before, is caught.
    """
    close = torch.cdist(sketches, torch.from_numpy(memory.sketches)) <= SAME * scale
    same_peer = torch.tensor(members)[:, None] == torch.from_numpy(memory.members)[None]
    same_round = torch.tensor(rounds)[:, None] == torch.from_numpy(memory.rounds)[None]
    result: Tensor = ~(close & ~(same_peer & same_round)).any(dim=1)
    return result


def first_of_its_kind(distances: Tensor, own: Tensor, candidates: Tensor, scale: float) -> Tensor:
    """Which updates (k,) are not the same as a candidate before them, ours (`own`) being the first; distances (k, k).

    `scale` is how far updates typically are from ours, or our own step if that is shorter.
    """
    if scale <= 0:
        return torch.ones_like(candidates)
    twins = (distances <= SAME * scale) & candidates[None]
    before = torch.ones_like(twins).tril(-1) & ~own[:, None] | own[None] & ~own[:, None]
    result: Tensor = ~(twins & before).any(dim=1)
    return result


def within_reach(from_us: Tensor, extent: float) -> Tensor:
    """Which updates (k,) are not far beyond our own extent: the norm of our update, or the length of our own step."""
    return from_us <= (REACH * extent if extent > 0 else torch.inf)


def familiar(from_us: Tensor, memory: Memory) -> Tensor:
    """Which updates (k,) are not much farther from ours than others usually are; before the first round, all."""
    usual = float(memory.distance[0])
    return from_us <= (FAMILIAR * usual if usual > 0 else torch.inf)


def typical_distances(distances: Tensor, candidates: Tensor) -> Tensor:
    """Each update's median distance (k,) to the other candidates, of distances (k, k)."""
    others = candidates & ~torch.eye(len(distances), dtype=torch.bool)
    return masked_median(distances, others)


def near(distances: Tensor, candidates: Tensor, size: int, memory: Memory) -> Tensor:
    """Which updates (k,) are not far from the others; everybody is while fewer than 3 are compared.

    Nobody is far who is no farther from the others than they usually are from us.
    """
    typical = typical_distances(distances, candidates)
    limit = (FAR + FEW_NUMBERS / size**0.5) * masked_median(typical, candidates)
    limit = limit.clamp(min=float(memory.distance[0]))
    close: Tensor = (typical <= limit) | (candidates.sum() < 3)
    return close


def skilled(skills: Tensor, own: Tensor, candidates: Tensor) -> Tensor:
    """Which updates (k,) know half of what the median peer knows of our examples, and a quarter of what we know."""
    reference = torch.where(own, skills / 2, 0.0).sum()
    others = candidates & ~own
    reference = torch.where(others.any(), torch.maximum(masked_median(skills, others), reference), reference)
    return skills >= SKILL * reference


def as_skilled(skills: Tensor, own: Tensor) -> Tensor:
    """Which updates (k,) know as much of our examples as we do."""
    return skills >= AS_SKILLED * torch.where(own, skills, 0.0).sum()


def is_useful(loss: Tensor, without: Tensor) -> Tensor:
    """Whether losses are lower than those without somebody by a hundredth at least; they may be negative."""
    return loss < torch.where(without > 0, USEFUL * without, without / USEFUL)


@torch.no_grad()
def skill(learner: Learner, stacked: Tensor, inputs: Tensor, targets: Tensor, held: Tensor, own: Tensor) -> Tensor:
    """How well each update (k,) does on our validation examples (n, …), between 0 and 1.

    With classes: recall among the classes `held` (classes,) that we have, their mean. Otherwise √(our loss / its loss).
    """
    if learner.task.classes is None:
        loss = mappable_loss(learner)
        losses = torch.stack([loss(flat, inputs, targets) for flat in stacked])  # a nested vmap gets mse_loss wrong
        ours = torch.where(own, losses, 0.0).sum().clamp(min=1e-12)
        return torch.nan_to_num((ours / losses.clamp(min=1e-12)).clamp(0.0, 1.0).sqrt())
    classes = (targets[:, None] == torch.arange(len(held))).float()  # (n, classes)
    counts = classes.sum(dim=0)
    seen = held & (counts > 0)
    weights = classes @ torch.where(seen, 1 / counts.clamp(min=1.0), 0.0) / seen.sum().clamp(min=1)
    predicted = torch.stack([outputs(learner, flat, inputs) for flat in stacked])  # (k, n, classes)
    best = torch.where(held, torch.nan_to_num(predicted), -torch.inf).argmax(dim=-1)
    return (best == targets).float() @ weights


def held_classes(targets: Tensor, classes: int) -> Tensor:
    """Which classes (classes,) are among the member's validation targets often enough (1%) to judge by."""
    counts = torch.bincount(targets, minlength=classes)
    return counts >= max(1.0, 0.01 * len(targets))


def remembered(
    memory: Memory, members: tuple[int, ...], rounds: tuple[int, ...], sketches: Tensor, distance: float = 0.0
) -> Memory:
    """The memory with these updates in the place of the same peers' earlier ones.

    `distance` is the median distance to ours of those that are sound, new and within reach, 0 if there are none; half
    of what is remembered is the last.
    """
    before = float(memory.distance[0])
    usual = before if distance <= 0 else distance if before <= 0 else min((before + distance) / 2, GROWTH * before)
    known = {int(m): (s, int(r)) for m, s, r in zip(memory.members, memory.sketches, memory.rounds, strict=True)}
    known.update({m: (s, r) for m, s, r in zip(members, sketches.numpy(), rounds, strict=True)})
    order = sorted(known)
    return Memory(
        np.array(order, dtype=np.int64),
        np.stack([known[m][0] for m in order]),
        np.array([known[m][1] for m in order], dtype=np.int64),
        np.array([usual], dtype=np.float32),
    )


def sketches_of(stacked: Tensor) -> Tensor:
    """Sketches (k, 64) that keep distances roughly: numbers summed by turns, with signs (Charikar et al., 2002)."""
    size = stacked.shape[1]
    generator = torch.Generator().manual_seed(size)
    signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1
    bins = torch.randint(0, SKETCH, (size,), generator=generator)
    result = torch.zeros(len(stacked), SKETCH)
    for sketch, row in zip(result, stacked, strict=True):
        sketch.index_add_(0, bins, torch.nan_to_num(row) * signs)
    return result


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """The (lower) median over the last dimension of the values in the mask; infinite where there is none."""
    ordered = torch.where(mask, values, torch.inf).sort(dim=-1).values
    middle = (mask.sum(dim=-1, keepdim=True) - 1).clamp(min=0) // 2
    return ordered.gather(-1, middle.expand(*ordered.shape[:-1], 1)).squeeze(-1)
