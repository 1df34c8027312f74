"""The learners of a coordinated session behind its ports: the coordinator's, which averages, and a worker's.

Both stand on the node's TorchLearner: its task, data, codec, thread and randomness. Know no network and no chain.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import safetensors.torch
import torch
import trio
import trio.from_thread
from safetensors import SafetensorError

from node.config import Aggregation
from node.daemon.learner import TorchLearner
from node.daemon.private import PrivateTraining
from node.errors import HomeError, NodeError
from node.learning import aggregation, parameters, trainer
from node.learning.aggregation import Moments
from node.learning.local_work import Interruptions, gradient_of, train_from
from node.learning.mixing import quantise
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
    moments: Moments | None = None
    went_in: dict[int, int] = field(default_factory=dict)
    seen: list[Mapping[str, float]] = field(default_factory=list)

    async def model(self) -> Trained:
        """The model as it is now, as a float32 payload."""
        return await self.torch_learner.run(self._model)

    def _model(self) -> Trained:
        payload = parameters.encode(self.torch_learner.learner.spec, self.torch_learner.flat)
        return Trained(payload, hashlib.sha256(payload).digest())

    async def accepts(self, payload: Payload) -> str | None:
        """What is wrong with a payload, None if nothing is."""
        return await self.torch_learner.accepts(payload)

    async def aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        """Weighs and mixes; the result becomes the model."""
        return await self.torch_learner.run(self._aggregate, round, updates)

    def _aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        base = self.torch_learner
        before, files = base.flat, self._moments_file()
        lags = [round - update.contribution.round for update in updates]
        examples = [
            update.examples * aggregation.staleness_factor(lag) for update, lag in zip(updates, lags, strict=True)
        ]
        vectors = [base.decode(update.contribution.payload) for update in updates]
        weights = quantise(aggregation.weigh(self.rule, before, torch.stack(vectors), examples))
        members = [base.seat.member, *(update.contribution.member for update in updates)]
        entries = zip(members, weights.tolist(), [0, *lags], [before, *vectors], strict=True)
        row = sorted(entries, key=lambda entry: entry[0])
        used = [vector for _, weight, _, vector in row if weight]
        in_order = np.array([weight for _, weight, _, _ in row if weight], dtype=np.uint16)
        when = aggregation.When(round, self.rounds)
        settled = aggregation.settle(self.rule, before, used, in_order, self.moments, when)
        if not bool(torch.isfinite(settled.flat).all()):
            raise NodeError(f"the model of round {round} is not finite: lower the session's server_rate")
        base.flat, self.moments = settled.flat, settled.moments
        self.went_in.update({one.contribution.member: one.contribution.round for one in updates})
        for update in updates:
            discard(update.contribution.payload)
        model = self._model()
        metrics = base.measure()
        self.seen.append(metrics)
        inputs = tuple(Input(member, weight, lag) for member, weight, lag, _ in row)
        return Aggregated(inputs, model.payload, model.digest, metrics, files)

    def _moments_file(self) -> Mapping[str, bytes]:
        """What the round's step starts from, so that an auditor can take it again."""
        if not aggregation.has_moments(self.rule):
            return {}
        moments = self.moments or aggregation.fresh_moments(self.rule, len(self.torch_learner.flat))
        return {MOMENTS: aggregation.encode_moments(moments)}

    def used(self) -> Mapping[int, int]:
        """By worker, the newest round of which an update went in."""
        return self.went_in

    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of every round so far."""
        return self.seen

    def checkpoint(self) -> bytes:
        """Everything that the next round depends on, as a safetensors file."""
        words = orjson.dumps({"used": list(self.went_in.items()), "history": self.seen})
        tensors = {
            "parameters": self.torch_learner.flat,
            "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
        }
        if self.moments is not None:
            tensors |= {"first": self.moments.first, "second": self.moments.second}
        content: bytes = safetensors.torch.save(tensors)
        return content

    def restore(self, checkpoint: bytes) -> None:
        """Goes back to a checkpoint. HomeError if it is of another model, or no coordinator's."""
        try:
            tensors = safetensors.torch.load(checkpoint)
            flat, words = tensors["parameters"], orjson.loads(bytes(tensors["words"].tolist()))
        except (SafetensorError, KeyError, orjson.JSONDecodeError) as error:
            raise HomeError(f"the checkpoint is no coordinator's ({error}): use another --home") from error
        self.torch_learner.require_shape(flat)
        self.torch_learner.flat = flat
        self.went_in = {int(member): int(round) for member, round in words["used"]}
        self.seen = list(words["history"])
        self.moments = Moments(tensors["first"], tensors["second"]) if "first" in tensors else None


@dataclass
class WorkingLearner:
    """Implements `node.session.coordinated.Trainee`."""

    torch_learner: TorchLearner
    proximal: float = 0.0  # μ of FedProx
    batches: int = 0  # of a gradient; 0: updates are parameters
    throttle_s: float = 0.0  # slept after each step, to be a slow worker on purpose

    async def adopt(self, payload: Payload, measure: bool) -> Mapping[str, float]:
        """Makes the model in a float32 payload its own; its metrics on own data, if wanted. UpdateError."""
        return await self.torch_learner.run(self._adopt, payload, measure)

    def _adopt(self, payload: Payload, measure: bool) -> Mapping[str, float]:
        base = self.torch_learner
        content = payload.read_bytes() if isinstance(payload, Path) else payload
        base.flat = parameters.decode(base.learner.spec, content)
        return base.measure() if measure else {}

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
        between = Interruptions(stop, self._pause, time.monotonic)
        if self.batches:
            done = gradient_of(base.learner, base.flat, base.data.train, plan, between)
        else:
            learner = base.learner.in_round(round, base.rounds)
            done = train_from(learner, base.flat, base.data.train, plan, self.proximal, between)
        trained = base.seal(round, done.flat, {"train_loss": done.loss})
        work = Work(examples=done.examples, steps=done.steps, full=full, training_s=done.seconds)
        return WorkDone(trained, work)

    def _train_privately(
        self, private: PrivateTraining, round: int, steps: int, stop: Callable[[], bool]
    ) -> WorkDone | None:
        def check() -> bool:
            self._pause()
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

    def _pause(self) -> None:
        trio.from_thread.check_cancelled()
        if self.throttle_s:
            time.sleep(self.throttle_s)
