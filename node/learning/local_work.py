"""A worker's training in a round: so many steps from the coordinator's model, ended early when a newer one is there.

The step is the trainer's, taken in place. Knows no peers and no event loop; the clock is an argument.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from node.learning import trainer
from node.learning.descent import Descent, backward, leaves
from node.learning.pure import require_fit
from node.learning.task import Learner, Rows


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it: parameters (size,), the mean loss on the way, and how much was done in how many seconds."""

    flat: Tensor
    loss: float
    steps: int
    examples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Interruptions:
    """What the outside does between steps: `stop` ends the training, `pause` may sleep or raise."""

    stop: Callable[[], bool] = lambda: False
    pause: Callable[[], None] = lambda: None
    clock: Callable[[], float] = lambda: 0.0


def train_from(
    learner: Learner,
    model: Tensor,
    data: Rows,
    plan: trainer.Plan,
    proximal: float = 0.0,
    between: Interruptions = Interruptions(),
) -> Done:
    """Parameters after at least one and at most `plan.steps` steps from `model`, which becomes them: it is changed.

    With `proximal` μ the loss has the term μ/2 · ‖θ − model‖² of FedProx (Li et al., arXiv:1812.06127), which takes
    unequal amounts of work well. Raises TaskError when model and data do not fit each other.
    """
    trainer.require_examples(learner, data)
    total, steps = 0.0, 0
    started = between.clock()
    with trainer.seeded(plan), Descent(learner, model, proximal) as descent:
        for batch in trainer.batches(learner, data, plan):
            if steps and between.stop():
                break
            between.pause()
            if not steps:
                require_fit(learner, model, batch)
            total, steps = total + descent.step(batch), steps + 1
    examples = steps * min(learner.task.batch_size, len(data))
    return Done(model, total / max(1, steps), steps, examples, between.clock() - started)


def gradient_of(
    learner: Learner,
    model: Tensor,
    data: Rows,
    plan: trainer.Plan,
    between: Interruptions = Interruptions(),
) -> Done:
    """The mean gradient (size,) of the loss at `model` over at least one and at most `plan.steps` batches.

    Raises TaskError when model and data do not fit each other.
    """
    trainer.require_examples(learner, data)
    gradient, total, steps = torch.zeros_like(model), 0.0, 0
    parameters, sums = leaves(learner.spec, model), leaves(learner.spec, gradient)
    for name, leaf in parameters.items():
        leaf.grad = sums[name].data  # autograd adds to it
    started = between.clock()
    with trainer.seeded(plan):
        for batch in trainer.batches(learner, data, plan):
            if steps and between.stop():
                break
            between.pause()
            if not steps:
                require_fit(learner, model, batch)
            total, steps = total + backward(learner, parameters, batch), steps + 1
    examples = steps * min(learner.task.batch_size, len(data))
    return Done(gradient.div_(max(1, steps)), total / max(1, steps), steps, examples, between.clock() - started)
