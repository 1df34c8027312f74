"""The learners of a coordinated session behind its ports: the coordinator's, which averages, and a worker's.

Both stand on the node's TorchLearner: its task, data, codec, thread and randomness. Know no network and no chain.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import torch
import trio
import trio.from_thread
from safetensors import SafetensorError

from node.config import Aggregation
from node.daemon.learner import TorchLearner
from node.daemon.private import PrivateTraining
from node.daemon.reach import require_within_reach
from node.daemon.spool import load_tensors, tensor_pieces
from node.errors import HomeError, SessionOver, UpdateError
from node.files import Piece
from node.learning import aggregation, parameters, trainer
from node.learning.aggregation import Moments
from node.learning.codecs import FLOAT32
from node.learning.local_work import Interruptions, gradient_of, train_from
from node.learning.mixing import Weights
from node.learning.vectors import FileVector, Vector, is_finite
from node.messages import Input
from node.session.coordinated import Aggregated, Counted, WorkDone, discard
from node.session.notes import Work
from node.session.ports import Payload, Trained

MOMENTS = "moments.safetensors"


@dataclass
class AveragingLearner:
    """Implements `node.session.coordinated.Aggregator`."""

    torch_learner: TorchLearner
    rule: Aggregation
    rounds: int = 1  # of the session
    began: int = 1  # the round in which this coordinator's optimizer began with a fresh state
    moments: Moments | None = None
    went_in: dict[int, int] = field(default_factory=dict)
    seen: list[Mapping[str, float]] = field(default_factory=list)

    async def model(self) -> Trained:
        """The model as it is now, as a float32 payload."""
        return await self.torch_learner.run(self._model)

    def _model(self) -> Trained:
        return self.torch_learner.exact(self.torch_learner.flat, {})

    async def accepts(self, payload: Payload) -> str | None:
        """What is wrong with a payload, None if nothing is."""
        return await self.torch_learner.accepts(payload, self._require_within_reach)

    def _require_within_reach(self, update: Vector) -> None:
        require_within_reach(self.rule, self.torch_learner.flat, update, self.rounds)

    async def aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        """Weighs and mixes; the result becomes the model."""
        return await self.torch_learner.run(self._aggregate, round, updates)

    def _aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        base, files = self.torch_learner, self._moments_file()
        lags = [round - update.contribution.round for update in updates]
        examples = [
            update.examples * aggregation.staleness_factor(lag) for update, lag in zip(updates, lags, strict=True)
        ]
        vectors = [self._vector(update.contribution.payload) for update in updates]
        weights = aggregation.trust_row(self.rule, base.flat, vectors, examples)
        members = [base.seat.member, *(update.contribution.member for update in updates)]
        entries = zip(members, weights.tolist(), [0, *lags], [base.flat, *vectors], strict=True)
        row = sorted(entries, key=lambda entry: entry[0])
        used = [vector for _, weight, _, vector in row if weight]
        in_order = np.array([weight for _, weight, _, _ in row if weight], dtype=np.uint16)
        self._settle(round, used, in_order)
        self.went_in.update({one.contribution.member: one.contribution.round for one in updates})
        for update in updates:
            discard(update.contribution.payload)
        model = self._model()
        metrics = base.measure()
        self.seen.append(metrics)
        inputs = tuple(Input(member, weight, lag) for member, weight, lag, _ in row)
        return Aggregated(inputs, model.payload, model.digest, metrics, files)

    def _settle(self, round: int, used: Sequence[Vector], weights: Weights) -> None:
        """The new model takes the old one's place, part by part: with updates on disk, memory holds one model."""
        flat, when = self.torch_learner.flat, aggregation.When(round, self.rounds, self.began)
        if aggregation.has_moments(self.rule) and self.moments is None:
            self.moments = aggregation.fresh_moments(self.rule, len(flat))
        for part, settled in aggregation.settle_parts(self.rule, flat, used, weights, self.moments, when):
            if not is_finite(settled.flat):
                raise SessionOver(f"the model of round {round} is not finite: lower the session's server_rate")
            if settled.moments is not None and not all(map(is_finite, (settled.moments.first, settled.moments.second))):
                raise SessionOver(f"the optimizer's state of round {round} is not finite: create the session again")
            flat[part] = settled.flat
            if self.moments is not None and settled.moments is not None:
                aggregation.write_moments(self.moments, part, settled.moments)

    def _vector(self, payload: Payload) -> Vector:
        """An update's numbers; those of a large one stay on disk."""
        base = self.torch_learner
        if not isinstance(payload, Path) or base.codec is FLOAT32:
            return FileVector(base.learner.spec, payload) if isinstance(payload, Path) else base.decode(payload)
        plain = base.exact(base.decode(payload), {}).payload
        if not isinstance(plain, Path):
            return parameters.decode(base.learner.spec, plain)
        plain.replace(payload)  # decoded once, it is read like any other
        return FileVector(base.learner.spec, payload)

    def _moments_file(self) -> Mapping[str, Payload]:
        """What the round's step starts from, so that an auditor can take it again."""
        if not aggregation.has_moments(self.rule):
            return {}
        moments = self.moments or aggregation.fresh_moments(self.rule, len(self.torch_learner.flat))
        pieces = aggregation.moments_pieces(moments)
        return {MOMENTS: self.torch_learner.spool.keep(pieces, sum(map(len, pieces)))[0]}

    def used(self) -> Mapping[int, int]:
        """By worker, the newest round of which an update went in."""
        return self.went_in

    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of every round so far."""
        return self.seen

    def checkpoint(self) -> bytes:
        """Everything that the next round depends on, as a safetensors file."""
        return b"".join(self.checkpoint_pieces())

    def checkpoint_pieces(self) -> Sequence[Piece]:
        """The same, piece by piece, without a copy."""
        words = orjson.dumps({"used": list(self.went_in.items()), "history": self.seen})
        tensors = {
            "parameters": self.torch_learner.flat,
            "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
        }
        if self.moments is not None:
            tensors |= {"first": self.moments.first, "second": self.moments.second}
        return tensor_pieces(tensors)

    def restore(self, checkpoint: bytes | Path) -> None:
        """Goes back to a checkpoint. HomeError if it is of another model, or no coordinator's."""
        try:
            tensors = load_tensors(checkpoint)
            flat, words = tensors["parameters"], orjson.loads(bytes(tensors["words"].tolist()))
        except (SafetensorError, KeyError, orjson.JSONDecodeError) as error:
            raise HomeError(f"the checkpoint is no coordinator's ({error}): use another --home") from error
        self.torch_learner.require_shape(flat)
        self.torch_learner.flat = flat
        self.went_in = {int(member): int(round) for member, round in words["used"]}
        self.seen = [_measured(metrics) for metrics in words["history"]]
        self.moments = Moments(tensors["first"], tensors["second"]) if "first" in tensors else None


def _measured(metrics: Mapping[str, float | None]) -> Mapping[str, float]:
    """A round's metrics without those that were no finite number, which a checkpoint has as null."""
    return {name: value for name, value in metrics.items() if value is not None}


def is_coordinators(checkpoint: Path) -> bool:
    """Whether a checkpoint is a coordinator's."""
    return "words" in load_tensors(checkpoint)


@dataclass
class Pace:
    """Makes each training step take at least so many seconds, as on a slow machine: its own work is part of them."""

    step_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _last: float | None = None

    def keep(self) -> None:
        """Called before each step; sleeps for what is left of the one before (before the first: for one step)."""
        if self.step_s:
            now = self.clock()
            left_s = self.step_s - (now - (now if self._last is None else self._last))
            if left_s > 0:
                self.sleep(left_s)
            self._last = self.clock()


@dataclass
class WorkingLearner:
    """Implements `node.session.coordinated.Trainee`."""

    torch_learner: TorchLearner
    proximal: float = 0.0  # μ of FedProx
    batches: int = 0  # of a gradient; 0: updates are parameters
    throttle_s: float = 0.0  # that a step takes at least, to be a slow worker on purpose

    async def adopt(self, payload: Payload, measure: bool) -> Mapping[str, float]:
        """Makes the model in a float32 payload its own; its metrics on own data, if wanted. UpdateError."""
        try:
            return await self.torch_learner.run(self._adopt, payload, measure)
        except UpdateError as error:
            self.torch_learner.refuse(error)
            raise

    def _adopt(self, payload: Payload, measure: bool) -> Mapping[str, float]:
        self.torch_learner.take_over(payload)
        return self.torch_learner.measure() if measure else {}

    async def train(self, round: int, steps: int, stop: Callable[[], bool]) -> WorkDone | None:
        """So many steps from the model (0: a full round), fewer if `stop` says so between two of them.

        None where the privacy budget does not pay for the round.
        """
        return await self.torch_learner.run(self._train, round, steps, stop)

    def _train(self, round: int, steps: int, stop: Callable[[], bool]) -> WorkDone | None:
        base = self.torch_learner
        if base.private is not None:
            return self._train_privately(base.private, round, steps, stop)
        full = self.batches or base.learner.task.steps_per_round(len(base.data.train))
        plan = trainer.Plan(min(steps, full) or full, base.seat.generator("train", round))
        between = Interruptions(stop, self._pauses(), time.monotonic)
        if self.batches:
            ready = base.bench(base.learner)
            done = gradient_of(ready.learner, ready.flat, ready.data, plan, between)
        else:
            ready = base.bench(base.learner.in_round(round, base.rounds))
            done = train_from(ready.learner, ready.flat, ready.data, plan, self.proximal, between)
        trained = base.seal(round, done.flat.cpu(), {"train_loss": done.loss})
        work = Work(examples=done.examples, steps=done.steps, full=full, training_s=done.seconds)
        return WorkDone(trained, work)

    def _train_privately(
        self, private: PrivateTraining, round: int, steps: int, stop: Callable[[], bool]
    ) -> WorkDone | None:
        pause = self._pauses()

        def check() -> bool:
            pause()
            return stop()

        base, began = self.torch_learner, time.monotonic()
        done = private.train(round, base.flat, steps, check)
        if done is None:
            return None
        metrics = {"train_loss": done.loss, "epsilon": private.spending.epsilon}
        work = Work(
            examples=max(1, done.examples),
            steps=done.steps,
            full=private.way.steps,
            training_s=time.monotonic() - began,
        )
        return WorkDone(base.seal(round, done.flat, metrics), work)

    def epsilon(self) -> float | None:
        """Spent so far of a privacy budget; None without one."""
        return self.torch_learner.epsilon()

    def _pauses(self) -> Callable[[], None]:
        """What is done before each step of a training."""
        pace = Pace(self.throttle_s)

        def pause() -> None:
            trio.from_thread.check_cancelled()
            pace.keep()

        return pause
