"""Training and measuring many members at once: the step of node.learning.trainer, mapped over stacked flat vectors.

Knows no peers. Members may have different numbers of examples, and so of steps: those that are done drop out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby

import torch
from torch import Tensor

from node.learning.mapped import Mapped, mapped, over_members, traced
from node.learning.pure import mappable_loss, outputs, require_fit
from node.learning.task import Examples, Learner
from node.learning.trainer import (
    EVALUATION_CHUNK,
    Plan,
    augmentation,
    batch_rows,
    require_examples,
    seeded,
    training_step,
)

MEMORY = 256 * 1024 * 1024  # bytes that one step's members may take together, roughly
ACTIVATIONS = 8  # times the size of a batch's inputs: a guess at what a model keeps for its gradient


@dataclass(frozen=True, slots=True)
class Pool:
    """The examples of many members in one tensor: member i has `sizes[i]` of them from `starts[i]` on."""

    all: Examples
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def of(parts: Sequence[Examples]) -> "Pool":
        """The parts, one after another; a single part is not copied."""
        sizes = tuple(len(part) for part in parts)
        starts = tuple(accumulate(sizes[:-1], initial=0))
        if len(parts) == 1:
            return Pool(parts[0], starts, sizes)
        together = Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
        return Pool(together, starts, sizes)

    def rows(self, positions: Tensor) -> Examples:
        """The examples at positions (members, batch): inputs (members, batch, …), targets (members, batch, …)."""
        flat = positions.reshape(-1)
        inputs, targets = self.all.inputs.index_select(0, flat), self.all.targets.index_select(0, flat)
        return Examples(
            inputs.view(*positions.shape, *inputs.shape[1:]), targets.view(*positions.shape, *targets.shape[1:])
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the batches of some members come from."""

    pool: Pool
    augment: Sequence[Callable[[Tensor], Tensor]] | None  # of each member's inputs; None: they stay as they are

    def at(self, positions: Tensor) -> Examples:
        """The examples of the first members, as many as there are rows of positions (members, batch)."""
        examples = self.pool.rows(positions)
        if self.augment is None:
            return examples
        changed = [one(inputs) for one, inputs in zip(self.augment, examples.inputs, strict=False)]
        return Examples(torch.stack(changed), examples.targets)


class Trainer:
    """Trains members of one learner, a batch of members at a time."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        step = training_step(learner, over_members(mappable_loss(learner, training=True)))
        self._step = traced(step, learner.plain)

    def train(self, flats: Tensor, pool: Pool, plans: Sequence[Plan], learning_rate: float | None = None) -> Tensor:
        """Parameters (members, size) after each member's plan, from `flats` (left alone); default rate: the task's.

        The same steps on the same batches as trainer.train, up to the rounding of batched arithmetic; deterministic
        given the plans' generators. Raises TaskError when a member has no examples, or model and data do not fit.
        """
        size = self.learner.task.batch_size
        if 0 in pool.sizes:
            require_examples(self.learner, ())
        require_fit(self.learner, flats[0], pool.all.rows(torch.arange(min(size, len(pool.all)))))
        rate = torch.tensor(self.learner.task.learning_rate if learning_rate is None else learning_rate)
        result = torch.empty_like(flats)
        batches = [min(size, count) for count in pool.sizes]
        order = sorted(range(len(plans)), key=lambda i: (batches[i], -plans[i].steps, i))
        with seeded(*plans):
            for batch, members in groupby(order, key=lambda i: batches[i]):
                for part in chunks(list(members), self._members_at_once(pool, batch)):
                    augment = self._augmentation([plans[i] for i in part])
                    orders = self._orders(pool, [plans[i] for i in part], part)
                    result[part] = self._train_part(flats[part], _Rows(pool, augment), orders, rate)
        return result

    def _members_at_once(self, pool: Pool, batch: int) -> int:
        numbers = ACTIVATIONS * batch * pool.all.inputs[0].numel() + 6 * self.learner.spec.size
        return max(1, MEMORY // (4 * numbers))

    def _orders(self, pool: Pool, plans: Sequence[Plan], members: Sequence[int]) -> list[Tensor]:
        """Positions in the pool (steps, batch) for each member."""
        batch = self.learner.task.batch_size
        return [
            torch.stack(list(batch_rows(pool.sizes[i], batch, plan))) + pool.starts[i]
            for i, plan in zip(members, plans, strict=True)
        ]

    def _augmentation(self, plans: Sequence[Plan]) -> Sequence[Callable[[Tensor], Tensor]] | None:
        """What each member's task makes of its batches."""
        return None if self.learner.task.augment is None else [augmentation(self.learner, plan) for plan in plans]

    def _train_part(self, flats: Tensor, rows: "_Rows", orders: Sequence[Tensor], rate: Tensor) -> Tensor:
        """The same batch size for all; the orders get shorter from the first to the last."""
        velocities, done = torch.zeros_like(flats), [len(order) for order in orders]
        flats = flats.clone()
        taken = 0
        while taken < done[0]:
            active = sum(steps > taken for steps in done)
            until = done[active - 1]
            positions = torch.stack([order[taken:until] for order in orders[:active]], dim=1)
            flat, velocity = flats[:active], velocities[:active]
            for step_positions in positions:
                examples = rows.at(step_positions)
                flat, velocity, _ = self._step(flat, velocity, examples.inputs, examples.targets, rate)
            flats[:active], velocities[:active] = flat, velocity
            taken = until
        return flats


class Evaluator:
    """The outputs of many members' models on the same examples."""

    def __init__(self, learner: Learner) -> None:
        self._outputs: Mapped = mapped(partial(outputs, learner), (0, None), learner.plain)

    @torch.no_grad()
    def outputs(self, flats: Tensor, data: Examples) -> Iterator[tuple[slice, slice, Tensor]]:
        """(members, examples, outputs (members, examples, …)) part by part, in bounded memory."""
        numbers = EVALUATION_CHUNK * data.inputs[0].numel() * ACTIVATIONS + flats.shape[1]
        at_once = max(1, MEMORY // (4 * numbers))
        for first in range(0, len(flats), at_once):
            members = slice(first, first + at_once)
            for start in range(0, len(data), EVALUATION_CHUNK):
                part = slice(start, start + EVALUATION_CHUNK)
                yield members, part, self._outputs(flats[members], data.inputs[part])


def chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    """The items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
