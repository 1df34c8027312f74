"""A coordinated session of virtual workers, some of whom fail: training, weighing and averaging are the node's own.

Knows no peers and no time: a round has the updates of everybody who is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.config import Aggregation
from node.errors import ConfigError
from node.learning import aggregation
from node.learning.many import Pool, Trainer
from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, evaluate
from node.simulation.run import generator_of
from node.simulation.settings import SimulationSettings


@dataclass(frozen=True, slots=True)
class CoordinatedSettings:
    """A run; the same settings give the same result, bit for bit, on one thread of torch."""

    task: str = "mnist-softmax"
    workers: int = 6
    quorum: int = 3
    rounds: int = 10
    split: str = "iid"
    seed: int = 1
    failed: int = 0  # workers that are gone for good, those with the largest numbers
    fails_after: int = 3  # rounds
    rule: str = "fedavg"
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class CoordinatedRound:
    """A round that closed: how many updates went in, and the model on the common test set (fractions)."""

    round: int
    updates: int
    accuracy: float
    loss: float


def simulate_coordinated(settings: CoordinatedSettings) -> Iterator[CoordinatedRound]:
    """The rounds, one by one, as long as there is a quorum. Raises NodeError for settings or data that can't be."""
    if not 0 <= settings.failed <= settings.workers or settings.quorum > settings.workers:
        raise ConfigError(
            f"{settings.failed} of {settings.workers} workers fail, quorum {settings.quorum}: neither may be larger "
            "than the number of workers"
        )
    learner = prepare(load_task(settings.task), settings.seed)
    rule = Aggregation(rule=settings.rule)  # type: ignore[arg-type]  # pydantic checks it
    parts = [
        learner.task.data(Share(settings.data_dir, index, settings.workers, settings.split, settings.seed))
        for index in range(settings.workers)
    ]
    chances = [generator_of(SimulationSettings(seed=settings.seed), index) for index in range(settings.workers)]
    trainer, model, moments = Trainer(learner), learner.initial(), None
    for round in range(1, settings.rounds + 1):
        left = settings.workers - (settings.failed if round > settings.fails_after else 0)
        if left < settings.quorum:
            return
        pool = Pool.of([part.train for part in parts[:left]])
        plans = [Plan(learner.task.steps_per_round(n), each) for n, each in zip(pool.sizes, chances, strict=False)]
        rate = learner.task.learning_rate_in(round, settings.rounds)
        updates = list(trainer.train(model.repeat(left, 1), pool, plans, rate))
        examples = [plan.steps * min(learner.task.batch_size, n) for plan, n in zip(plans, pool.sizes, strict=True)]
        weights = aggregation.trust_row(rule, model, updates, examples)
        inputs = [vector for vector, weight in zip([model, *updates], weights, strict=True) if weight]
        when = aggregation.When(round, settings.rounds)
        settled = aggregation.settle(rule, model, inputs, weights[weights > 0], moments, when)
        model, moments = settled.flat, settled.moments
        seen = evaluate(learner, model, parts[0].test)
        yield CoordinatedRound(round, left, seen["accuracy"], seen["loss"])
