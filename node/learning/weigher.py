"""Learning trust rows: the screen, then the rule of node.learning.trust, for one member or mapped over many.

The node weighs for itself, the simulation for everybody; members whose shapes are alike go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from node.learning.many import MEMORY, Pool, chunks
from node.learning.mapped import Mapped, mapped, over_members, traced
from node.learning.screen import (
    FEW,
    as_skilled,
    familiar,
    first_of_its_kind,
    held_classes,
    is_useful,
    masked_median,
    near,
    new,
    remembered,
    sketches_of,
    skill,
    skilled,
    sound,
    within_reach,
)
from node.learning.task import Examples, Learner
from node.learning.trust import (
    LOGIT_RANGE,
    Evidence,
    Inputs,
    TrustSettings,
    TrustState,
    block_losses,
    descend,
    is_better,
    mixture_loss,
    prior_strength,
    row_of,
)

Learned = tuple[TrustState, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Judge:
    """What updates are judged by: the task's loss on the member's own validation data."""

    learner: Learner
    validation: Examples


@dataclass(frozen=True, slots=True)
class Seat:
    """A member that weighs: what it remembers, what it got, its place in the validation pool, its randomness."""

    state: TrustState
    inputs: Inputs
    judge: int
    generator: torch.Generator


def learn_row(
    state: TrustState, inputs: Inputs, judge: Judge, settings: TrustSettings, generator: torch.Generator
) -> Learned:
    """The state to keep and the trust row (k,), not negative and adding up to 1.

    An update that the screen stops gets exactly 0; our own never does. Deterministic given the generator. Raises
    ConfigError for an unknown objective.
    """
    weigher = Weigher(judge.learner, Pool.of([judge.validation]), settings)
    return weigher.learn_rows([Seat(state, inputs, 0, generator)])[0]


@dataclass(frozen=True, slots=True)
class _Maps:
    """What is asked of many members at once."""

    skill: Mapped  # of each update
    step: Mapped  # of the descent
    loss: Mapped  # of a row
    blocks: Mapped  # the same in parts, to test a row by


class Weigher:
    """Learns the rows of members that judge by validation data of their own."""

    def __init__(self, learner: Learner, validation: Pool, settings: TrustSettings) -> None:
        self.learner, self.validation, self.settings = learner, validation, settings
        self.held = torch.stack([self._held(judge) for judge in range(len(validation.sizes))])
        self.strengths = torch.tensor([self._strength(held) for held in self.held])
        self._one_stack = self._maps(None)  # everybody has the same updates
        self._own_stacks = self._maps(0)

    def learn_rows(self, seats: Sequence[Seat]) -> list[Learned]:
        """For each member its state to keep and its row."""
        result: dict[int, Learned] = {}
        order = sorted(range(len(seats)), key=lambda i: (self._kind(seats[i]), i))
        for (count, examples), alike in groupby(order, key=lambda i: self._kind(seats[i])):
            for part in chunks(list(alike), self._members_at_once(count, examples)):
                result.update(zip(part, self._learn_alike([seats[i] for i in part]), strict=True))
        return [result[i] for i in range(len(seats))]

    def _learn_alike(self, seats: Sequence[Seat]) -> list[Learned]:
        """The same for members with the same number of inputs and of examples to judge by."""
        first = seats[0].inputs
        shared = all(seat.inputs.stacked is first.stacked for seat in seats)
        stacked = first.stacked if shared else torch.stack([seat.inputs.stacked for seat in seats])
        own = torch.nn.functional.one_hot(torch.tensor([seat.inputs.own for seat in seats]), len(first.members)).bool()
        sketches = [
            s.inputs.sketches if s.inputs.sketches is not None else sketches_of(s.inputs.stacked) for s in seats
        ]
        examples = self._draw(seats)
        if self.settings.screened:
            judged = None if examples is None else _some(examples, slice(self.settings.examples))
            stacked, passed, usual = self._screen(seats, stacked, own, sketches, judged)
        else:
            passed, usual = torch.ones_like(own), [0.0] * len(seats)
        logits = torch.stack([self._start(seat) for seat in seats])
        if examples is not None and len(first.members) > 1:
            logits = self._learn(seats, logits, stacked, passed, examples)
        rows = row_of(logits.double(), passed).numpy()
        kept = torch.where(passed, logits, -LOGIT_RANGE).numpy()
        return [
            (_next_state(seat, sketch, keep, distance), row)
            for seat, sketch, keep, row, distance in zip(seats, sketches, kept, rows, usual, strict=True)
        ]

    def _screen(
        self, seats: Sequence[Seat], stacked: Tensor, own: Tensor, sketches: Sequence[Tensor], examples: Examples | None
    ) -> tuple[Tensor, Tensor, list[float]]:
        """The updates, those that are not sound replaced by zeros, and which of them (members, k) may get weight.

        And the median distance to ours of those that are sound, new and within reach.
        """
        held = self.held[[seat.judge for seat in seats]]
        passed = sound(stacked, own)
        if not bool(passed.all()):
            passed = passed.all(dim=0).expand_as(passed).clone() if stacked.dim() == 2 else passed
            stacked = torch.where((passed[0] if stacked.dim() == 2 else passed)[..., None], stacked, 0.0)
        distances = torch.cdist(stacked, stacked, compute_mode="donot_use_mm_for_euclid_dist").expand(
            len(seats), -1, -1
        )
        far = torch.zeros_like(passed | own)
        skills: Sequence[Tensor | None] = [None] * len(seats)
        usual: list[float] = []
        if examples is not None:
            skills = self._maps_for(stacked).skill(stacked, examples.inputs, examples.targets, held, own)
        for i, (seat, sketch, skills_seen) in enumerate(zip(seats, sketches, skills, strict=True)):
            mask, inputs, memory = passed[i], seat.inputs, seat.state.memory()
            from_us = distances[i, inputs.own]
            scale = _median_distance(from_us, mask & ~own[i])
            scale = min(scale, inputs.step) if inputs.step > 0 else scale
            mask &= new(sketch, inputs.members, inputs.rounds, memory, scale) | own[i]
            mask &= first_of_its_kind(distances[i], own[i], mask, scale)
            extent = max(inputs.step, float(torch.linalg.vector_norm(inputs.stacked[inputs.own])))
            mask &= within_reach(from_us, extent)
            usual.append(_median_distance(from_us, mask & ~own[i]))
            reached = mask.clone()
            mask &= familiar(from_us, memory)
            mask &= near(distances[i], mask, self.learner.spec.size, memory)
            if skills_seen is not None:
                able = skilled(skills_seen, own[i], mask)
                far[i] = reached & ~mask & able & as_skilled(skills_seen, own[i])
                mask &= able
        passed = passed | own
        far &= ~own & (passed.sum(dim=-1, keepdim=True) <= FEW)
        if examples is not None and self.settings.objective == "common" and bool(far.any()):
            passed = passed | self._useful(stacked, passed, far, examples, held)
        return stacked, passed, usual

    def _useful(self, stacked: Tensor, passed: Tensor, far: Tensor, examples: Examples, held: Tensor) -> Tensor:
        """Which of those that are only too `far` (members, k) make equal sharing with those that passed better.

        All who do so alone, unless together they are worse than the best of them alone: then that one.
        """
        loss = self._maps_for(stacked).loss

        def equally(among: Tensor) -> Tensor:
            row = row_of(torch.zeros(among.shape), among)
            result: Tensor = loss(row, stacked, examples.inputs, examples.targets, held)[:, None]
            return result

        alone = torch.full(far.shape, torch.inf)
        for peer in far.any(dim=0).nonzero().flatten():
            asked = torch.zeros_like(far).index_fill_(1, peer, True)
            alone = torch.where(far & asked, equally(passed | asked), alone)
        useful = is_useful(alone, equally(passed))
        lowest, best = torch.where(useful, alone, torch.inf).min(dim=1, keepdim=True)
        together = equally(passed | useful) <= lowest
        return useful & (together | torch.zeros_like(far).scatter_(1, best, True))

    def _learn(
        self, seats: Sequence[Seat], logits: Tensor, stacked: Tensor, passed: Tensor, examples: Examples
    ) -> Tensor:
        """Logits (members, k) after the descent; with objective `common`, 0 where it gives no better row than equal."""
        judges = [seat.judge for seat in seats]
        held, strengths = self.held[judges], self.strengths[judges]
        maps = self._maps_for(stacked)
        if self.settings.objective == "personal":
            for _ in range(self.settings.personal_steps):
                logits = maps.step(logits, stacked, passed, examples.inputs, examples.targets, held, strengths)
            return logits
        half = (examples.targets.shape[1] + 1) // 2
        seen, test = _some(examples, slice(half)), _some(examples, slice(half, None))
        for _ in range(self.settings.common_steps):
            logits = maps.step(logits, stacked, passed, seen.inputs, seen.targets, held, strengths)
        ours, equal = (
            maps.blocks(row_of(each, passed), stacked, test.inputs, test.targets, held)
            for each in (logits, torch.zeros_like(logits))
        )
        return torch.where(is_better(ours, equal)[:, None], logits, 0.0)

    def _maps(self, stacked: int | None) -> _Maps:
        """Of members with one stack of updates (None), or each its own (0)."""

        def skill_of_one(stacked: Tensor, inputs: Tensor, targets: Tensor, held: Tensor, own: Tensor) -> Tensor:
            return skill(self.learner, stacked, inputs, targets, held, own)

        plain, dims = self.learner.plain, (0, stacked, 0, 0, 0)
        loss = over_members(mixture_loss(self.learner, self.settings.objective), dims)

        def step(logits: Tensor, *evidence: Tensor) -> Tensor:
            return descend(loss, logits, Evidence(*evidence))

        return _Maps(
            mapped(skill_of_one, (stacked, 0, 0, 0, 0), plain),
            traced(step, plain),
            traced(loss, plain),
            mapped(block_losses(self.learner), dims, plain),
        )

    def _maps_for(self, stacked: Tensor) -> _Maps:
        return self._one_stack if stacked.dim() == 2 else self._own_stacks

    def _start(self, seat: Seat) -> Tensor:
        """Logits (k,) that the descent starts from."""
        if not self.settings.warm:
            return torch.zeros(len(seat.inputs.members))
        known = dict(zip(seat.state.members.tolist(), seat.state.logits.tolist(), strict=True))
        return torch.tensor([known.get(member, 0.0) for member in seat.inputs.members])

    def _draw(self, seats: Sequence[Seat]) -> Examples | None:
        """Validation examples (members, n, …) of this round; None for members that have none."""
        if not self.validation.sizes[seats[0].judge]:
            return None
        positions = []
        for seat in seats:
            drawn = torch.randperm(self.validation.sizes[seat.judge], generator=seat.generator)
            positions.append(drawn[: self._most] + self.validation.starts[seat.judge])
        return self.validation.rows(torch.stack(positions))

    def _kind(self, seat: Seat) -> tuple[int, int]:
        return len(seat.inputs.members), min(self.validation.sizes[seat.judge], self._most)

    @property
    def _most(self) -> int:
        """How many validation examples a member looks at in a round."""
        return self.settings.examples * (1 if self.settings.objective == "personal" else 2)

    def _members_at_once(self, count: int, examples: int) -> int:
        numbers = 2 * count * self.learner.spec.size
        if examples:
            numbers += 2 * count * examples * self.validation.all.inputs[0].numel()
        return max(1, MEMORY // (4 * numbers))

    def _held(self, judge: int) -> Tensor:
        """Which classes (classes,) a member has; (0,) for a task without."""
        classes = self.learner.task.classes
        if classes is None:
            return torch.empty(0, dtype=torch.bool)
        start = self.validation.starts[judge]
        return held_classes(self.validation.all.targets[start : start + self.validation.sizes[judge]], classes)

    def _strength(self, held: Tensor) -> float:
        return prior_strength(self.settings, float(held.float().mean()) if len(held) else 1.0)


def _some(examples: Examples, which: slice) -> Examples:
    """Those of each member's examples (members, n, …)."""
    return Examples(examples.inputs[:, which], examples.targets[:, which])


def _median_distance(from_us: Tensor, others: Tensor) -> float:
    """The median distance to ours of those others (k,); 0 without any."""
    return float(masked_median(from_us, others)) if bool(others.any()) else 0.0


def _next_state(seat: Seat, sketches: Tensor, logits: npt.NDArray[np.float32], distance: float) -> TrustState:
    state, inputs = seat.state, seat.inputs
    known = dict(zip(state.members.tolist(), state.logits.tolist(), strict=True))
    known.update(zip(inputs.members, logits.tolist(), strict=True))
    memory = remembered(state.memory(), inputs.members, inputs.rounds, sketches, distance)
    kept = np.array([known[member] for member in memory.members.tolist()], dtype=np.float32)
    return TrustState(memory.members, kept, memory.sketches, memory.rounds, memory.distance)
