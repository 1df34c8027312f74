"""The screen before the trust row: four plain questions that an update must pass to be given any weight at all.

Sound?   finite, and not huge beside our own.
New?     not what somebody else sent before, nor what its sender has sent twice before (stale, constant, copied).
Near?    its median distance to the other updates is at most 1.6 times the typical one (sign flips, noise, dissensus).
Skilled? on the classes that we have, and judged among those alone, its recall is at least half of the median peer's
         (flipped labels, inner-product manipulation). Honest peers that know other classes pass: among ours they are
         no worse than ignorant, while a poisoned update is.

The thresholds were chosen on validation data (docs/experiments.md). Knows no network.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.learning.task import Examples, Learner
from node.learning.trainer import batch_loss, outputs

HUGE = 1e3  # times our own norm: beyond it, an update is not even looked at
SAME = 0.01  # of the typical distance between updates: closer than that is no new work
REPEATS = 2  # times that a peer may be seen with the same update (a straggler is) before it counts as stale
FAR = 1.6  # times the typical distance
FEW_NUMBERS = 5.0  # over √size is added to it: distances between small models vary more
SKILL = 0.5  # of the median peer's
HELD = 0.01  # of the validation examples: a class with fewer is none that we can judge by
SKETCH = 64  # numbers kept of an update of any size
JUDGED = 512  # examples that skill is measured on


@dataclass(frozen=True, slots=True)
class Inputs:
    """Updates (k, size) in ascending order of member index, our own among them at position `own`."""

    members: tuple[int, ...]
    own: int
    stacked: Tensor


@dataclass(frozen=True, slots=True)
class Judge:
    """What updates are judged by: the task's loss on the member's own validation data."""

    learner: Learner
    validation: Examples


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the peers (n,) met so far: a sketch (n, 64) of the last update, and how often in a row it was repeated."""

    members: npt.NDArray[np.int64]
    sketches: npt.NDArray[np.float32]
    repeats: npt.NDArray[np.int64]

    @staticmethod
    def fresh() -> "Memory":
        """Nobody was met yet."""
        return Memory(np.empty(0, np.int64), np.empty((0, SKETCH), np.float32), np.empty(0, np.int64))


def passes(inputs: Inputs, judge: Judge, memory: Memory) -> Tensor:
    """Which of the updates (k,) may be given weight; our own always may."""
    passed = sound(inputs)
    passed &= new(inputs, memory, passed)
    passed &= near(inputs, passed)
    passed &= skilled(inputs, judge, passed)
    passed[inputs.own] = True
    return passed


def sound(inputs: Inputs) -> Tensor:
    """Which updates (k,) are finite and not huge."""
    norms: Tensor = torch.linalg.vector_norm(inputs.stacked, dim=1)
    return torch.isfinite(norms) & (norms <= HUGE * norms[inputs.own].clamp(min=1.0))


def near(inputs: Inputs, candidates: Tensor) -> Tensor:
    """Which updates (k,) are not far from the others; everybody is while fewer than 3 are compared."""
    result = torch.ones_like(candidates)
    if int(candidates.sum()) < 3:
        return result
    distances = _typical_distances(inputs.stacked[candidates])
    limit = FAR + FEW_NUMBERS / inputs.stacked.shape[1] ** 0.5
    result[candidates] = distances <= limit * distances.median()
    return result


def skilled(inputs: Inputs, judge: Judge, candidates: Tensor) -> Tensor:
    """Which updates (k,) know at least half of what the median peer knows about our examples."""
    result = torch.ones_like(candidates)
    others = candidates.clone()
    others[inputs.own] = False
    if not bool(others.any()) or len(judge.validation) == 0:
        return result
    skills = skill(inputs, judge)
    reference = torch.maximum(skills[others].quantile(0.5), skills[inputs.own] / 2)
    return skills >= SKILL * reference


@torch.no_grad()
def skill(inputs: Inputs, judge: Judge) -> Tensor:
    """How well each update (k,) does on our validation examples, between 0 and 1.

    With classes: recall among the classes that we have, their mean. Otherwise √(our own loss / its loss).
    """
    validation = judge.validation.rows(torch.arange(min(JUDGED, len(judge.validation))))
    held = held_classes(judge)
    if held is None:
        loss = batch_loss(judge.learner)
        losses = torch.stack([loss(flat, validation.inputs, validation.targets) for flat in inputs.stacked])
        ratio = losses[inputs.own].clamp(min=1e-12) / losses.clamp(min=1e-12)
        return torch.nan_to_num(ratio.clamp(0.0, 1.0).sqrt())
    targets = validation.targets
    counts = torch.bincount(targets, minlength=len(held)).float()
    seen = held & (counts > 0)
    weights = torch.where(seen, 1 / counts.clamp(min=1.0), 0.0)[targets] / seen.sum().clamp(min=1)
    hits = [(_masked(judge, flat, validation, held) == targets).float() for flat in inputs.stacked]
    return torch.stack(hits) @ weights


def held_classes(judge: Judge) -> Tensor | None:
    """Which classes (classes,) are among the member's validation examples; None for a task without classes."""
    classes = judge.learner.task.classes
    if classes is None:
        return None
    counts = torch.bincount(judge.validation.targets, minlength=classes)
    return counts >= max(1.0, HELD * len(judge.validation))


def new(inputs: Inputs, memory: Memory, candidates: Tensor) -> Tensor:
    """Which updates (k,) are not somebody else's earlier one, and not their own sender's for the third time."""
    known, sketches = memory.members.tolist(), torch.from_numpy(memory.sketches)
    threshold = SAME * _scale(inputs, candidates)
    result = torch.ones_like(candidates)
    for position, (member, sketch) in enumerate(zip(inputs.members, _sketches(inputs.stacked), strict=True)):
        close = torch.linalg.vector_norm(sketches - sketch, dim=1) <= threshold
        for other, same in zip(range(len(known)), close.tolist(), strict=True):
            if same and (known[other] != member or memory.repeats[other] + 1 >= REPEATS):
                result[position] = False
    return result


def remembered(memory: Memory, inputs: Inputs) -> Memory:
    """The memory with these updates in the place of the same peers' earlier ones."""
    known = {m: (s, int(r)) for m, s, r in zip(memory.members.tolist(), memory.sketches, memory.repeats, strict=True)}
    for member, sketch in zip(inputs.members, _sketches(inputs.stacked).numpy(), strict=True):
        before = known.get(member)
        repeated = before is not None and np.array_equal(before[0], sketch)
        known[member] = (sketch, before[1] + 1 if before is not None and repeated else 0)
    order = sorted(known)
    return Memory(
        np.array(order, dtype=np.int64),
        np.stack([known[m][0] for m in order]),
        np.array([known[m][1] for m in order], dtype=np.int64),
    )


def _masked(judge: Judge, flat: Tensor, examples: Examples, held: Tensor) -> Tensor:
    predicted = outputs(judge.learner, flat, examples.inputs)
    return torch.nan_to_num(predicted).masked_fill(~held, float("-inf")).argmax(dim=-1)


def _typical_distances(stacked: Tensor) -> Tensor:
    """Each update's median distance (k,) to the others."""
    count = len(stacked)
    distances = torch.stack([torch.linalg.vector_norm(stacked - row, dim=1) for row in stacked])
    others = distances[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
    return others.median(dim=1).values


def _scale(inputs: Inputs, candidates: Tensor) -> float:
    if int(candidates.sum()) < 2:
        return 0.0
    return float(_typical_distances(inputs.stacked[candidates]).median())


def _sketches(stacked: Tensor) -> Tensor:
    """Sketches (k, 64) that keep distances roughly: numbers summed by turns, with signs (Charikar et al., 2002)."""
    size = stacked.shape[1]
    generator = torch.Generator().manual_seed(size)
    signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1
    bins = torch.randint(0, SKETCH, (size,), generator=generator)
    sketches = [torch.zeros(SKETCH).index_add_(0, bins, torch.nan_to_num(row) * signs) for row in stacked]
    return torch.stack(sketches)
