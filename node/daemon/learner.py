"""The learner behind the session's port: torch in one worker thread, so that the event loop never waits for it.

Knows no network and no chain. What it does in a round is a pure function of (checkpoint, session seed, member, round).
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import trio
import trio.from_thread
from safetensors import SafetensorError
from torch import Tensor

from node.causes import Tally
from node.daemon.earlier import EarlierPayloads
from node.daemon.misbehavior import Misbehavior, without_own
from node.daemon.private import PrivateTraining
from node.daemon.spool import Spool, load_tensors, tensor_pieces
from node.errors import HomeError, NodeError, UpdateError
from node.files import Piece
from node.learning import parameters, trainer, trust
from node.learning.codecs import FLOAT32, Codec, Past, nothing_held
from node.learning.devices import CPU, Bench, bench, measure
from node.learning.mixing import mix, quantise
from node.learning.task import Learner, LocalSplit
from node.learning.vectors import FileVector, Vector, is_finite, payload_pieces
from node.learning.weigher import Judge, learn_row
from node.messages import Input
from node.session.ports import Contribution, Mixed, Payload, Trained, payload_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")
TRUST = "trust_"  # prefix of the trust state's arrays in a checkpoint


@dataclass(frozen=True, slots=True)
class Seat:
    """Who learns: enough to make every random choice repeatable."""

    session_id: int
    seed: int
    member: int

    def generator(self, purpose: str, round: int) -> torch.Generator:
        """Randomness of its own for each purpose and round."""
        text = f"{self.session_id}/{self.seed}/{self.member}/{purpose}/{round}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)


@dataclass
class TorchLearner:
    """Owns the parameters; implements `node.session.ports.Learner`."""

    learner: Learner
    data: LocalSplit
    codec: Codec
    seat: Seat
    settings: trust.TrustSettings
    flat: Tensor
    state: trust.TrustState = field(default_factory=trust.TrustState.fresh)
    residual: Tensor | None = None
    misbehavior: Misbehavior | None = None
    private: PrivateTraining | None = None  # in a session with a privacy budget
    rounds: int = 1  # of the session, for the schedule of the learning rate
    earlier: EarlierPayloads | None = None  # what updates build on; None: nothing
    spool: Spool = field(default_factory=Spool)
    device: torch.device = CPU  # that trains and measures; all else is computed on the CPU
    refused_updates: int = 0  # of others: bytes, shapes or numbers that were not what they should be
    tally: Tally = field(default_factory=Tally)  # of why they were refused; the network's, once that is open
    _thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    async def train(self, round: int) -> Trained:
        """The encoded update of a round."""
        return await self.run(self._train, round)

    async def repeat(self, round: int, committed: Trained) -> Trained:
        """The update that was committed before a restart; trained again where its codec left something out of it.

        What it left out belongs into the next update, and died with the process. Of another update it is not that.
        """
        if self.codec.exact:
            return committed
        again = await self.train(round)
        if again.digest != committed.digest:
            log.warning("round %d trained again gives another update: what was committed to is kept", round)
            self.residual = None
        return committed

    async def accepts(self, payload: Payload, require: Callable[[Vector], None] = lambda _update: None) -> str | None:
        """What is wrong with a payload, None if nothing is; `require` raises UpdateError for what is besides."""
        fault: UpdateError | None = await self.run(self._fault, payload, require)
        if fault is None:
            return None
        self.refused_updates += 1
        self.refuse(fault)
        return str(fault)

    def refuse(self, fault: UpdateError) -> None:
        """Counts what was wrong with somebody's payload."""
        self.tally.count(fault.cause, detail=fault)

    async def mix(self, round: int, own: Payload, others: Sequence[Contribution]) -> Mixed:
        """Weighs and mixes; the mixture becomes this learner's parameters."""
        return await self.run(self._mix, round, own, others)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work` in the one thread that computes."""
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._thread)

    def _train(self, round: int) -> Trained:
        if self.private is not None:
            return self._train_privately(round, self.private)
        steps = self.learner.task.steps_per_round(len(self.data.train))
        plan = trainer.Plan(steps, self.seat.generator("train", round))
        ready = self.bench(self.learner.in_round(round, self.rounds))
        result = trainer.train(ready.learner, ready.flat, ready.data, plan, trio.from_thread.check_cancelled)
        return self.seal(round, result.flat.cpu(), {"train_loss": result.loss})

    def bench(self, learner: Learner) -> Bench:
        """What a training from the parameters takes, where this node trains."""
        return bench(self.device, learner, self.flat, self.data.train)

    def _train_privately(self, round: int, private: PrivateTraining) -> Trained:
        """Where the budget does not pay for the round: the mixture as it is, which says nothing new of our data."""
        result = private.train(round, self.flat, 0, trio.from_thread.check_cancelled)
        if result is None:
            return self.seal(round, self.flat, {"epsilon": private.spending.epsilon})
        return self.seal(round, result.flat, {"train_loss": result.loss, "epsilon": private.spending.epsilon})

    def epsilon(self) -> float | None:
        """Spent so far of a privacy budget; None without one."""
        return None if self.private is None else self.private.spending.epsilon

    def seal(self, round: int, flat: Tensor, metrics: Mapping[str, float]) -> Trained:
        """What was trained as the payload that others get. NodeError if training diverged."""
        if not is_finite(flat):
            raise NodeError(
                f"training diverged in round {round} (a parameter is not finite): lower the task's learning_rate "
                f"({self.learner.task.learning_rate})"
            )
        if self.misbehavior is not None:
            flat = self.misbehavior(self.flat, flat, self.seat.generator("misbehave", round))
        if self.codec is FLOAT32:
            return self.exact(flat, metrics)
        encoded = self.codec.encode(self.learner.spec, flat, self.residual, self._past(round))
        self.residual = encoded.residual
        payload, digest = self.spool.keep([encoded.payload], len(encoded.payload))
        return Trained(payload, digest, metrics)

    def exact(self, flat: Tensor, metrics: Mapping[str, float]) -> Trained:
        """These parameters as a `float32` payload, which lies on disk if it is large."""
        spec = self.learner.spec
        payload, digest = self.spool.keep(payload_pieces(spec, flat), spec.payload_size)
        return Trained(payload, digest, metrics)

    def _past(self, round: int) -> Past | None:
        earlier = self.earlier
        return None if earlier is None else Past(self.flat, earlier.announced(round), earlier.resolve)

    def _fault(self, payload: Payload, require: Callable[[Vector], None]) -> UpdateError | None:
        try:
            require(self._vector(payload))
        except UpdateError as error:
            return error
        return None

    def _vector(self, payload: Payload) -> Vector:
        """The finite numbers of an update; those of a `float32` one on disk stay there."""
        if not isinstance(payload, Path) or self.codec is not FLOAT32:
            return self.decode(payload)
        vector = FileVector(self.learner.spec, payload)
        vector.require_finite()
        return vector

    def take_over(self, payload: Payload) -> None:
        """The parameters of a `float32` payload become this learner's. UpdateError if it is none."""
        spec = self.learner.spec
        if not isinstance(payload, Path):
            self.flat = parameters.decode(spec, payload)
            return
        vector = FileVector(spec, payload)
        vector.require_finite()
        vector.copy_to(self.flat)

    def decode(self, payload: Payload) -> Tensor:
        """The vector (size,) of an update. UpdateError if it is not one."""
        resolve = nothing_held if self.earlier is None else self.earlier.resolve
        return self.codec.decode(self.learner.spec, payload_bytes(payload), resolve)

    def _mix(self, round: int, own: bytes, others: Sequence[Contribution]) -> Mixed:
        rounds = {other.member: other.round for other in others} | {self.seat.member: round}
        payloads: dict[int, Payload] = {other.member: other.payload for other in others} | {self.seat.member: own}
        members = tuple(sorted(payloads))
        stacked = torch.stack([self.decode(payloads[member]) for member in members])
        position = members.index(self.seat.member)
        judged = stacked if self.misbehavior is None else self.misbehavior.judged(stacked, position)
        step = float(torch.linalg.vector_norm(judged[position] - self.flat))
        inputs = trust.Inputs(members, tuple(rounds[member] for member in members), position, judged, step)
        judge = Judge(self.learner, self.data.validation)
        self.state, row = learn_row(self.state, inputs, judge, self.settings, self.seat.generator("trust", round))
        if self.misbehavior is not None:
            row = without_own(row, position)
        weights = quantise(row)
        self.flat = mix(stacked, weights)
        payload = parameters.encode(self.learner.spec, self.flat)
        entries = zip(members, weights.tolist(), strict=True)
        return Mixed(
            tuple(Input(member, weight, round - rounds[member]) for member, weight in entries),
            payload,
            hashlib.sha256(payload).digest(),
            self.measure(),
            self.epsilon(),
        )

    def measure(self) -> Mapping[str, float]:
        """Metrics of the mixture on own validation data and, where there is one, on the held-out test set."""
        metrics: dict[str, float] = {}
        for name, part in (("validation", self.data.validation), ("test", self.data.test)):
            if len(part):
                seen = measure(self.device, self.learner, self.flat, part)
                metrics |= {f"{name}_{metric}": value for metric, value in seen.items()}
        return metrics

    def checkpoint(self) -> bytes:
        """Everything that the next round depends on, as a safetensors file."""
        return b"".join(self.checkpoint_pieces())

    def checkpoint_pieces(self) -> Sequence[Piece]:
        """The same, piece by piece, without a copy."""
        tensors = {"parameters": self.flat}
        tensors |= {f"{TRUST}{name}": torch.from_numpy(array) for name, array in asdict(self.state).items()}
        if self.residual is not None:
            tensors["residual"] = self.residual
        return tensor_pieces(tensors)

    def require_shape(self, flat: Tensor) -> None:
        """HomeError unless these parameters of a checkpoint are of this task's model."""
        if flat.shape != (self.learner.spec.size,):
            raise HomeError(
                f"the checkpoint has {flat.numel()} numbers, the task's model {self.learner.spec.size}: "
                "start with the task that this home began with"
            )

    def restore(self, checkpoint: bytes | Path) -> None:
        """Goes back to a checkpoint. HomeError if it is of another model."""
        try:
            tensors = load_tensors(checkpoint)
            flat = tensors["parameters"]
            state = {name.removeprefix(TRUST): t.numpy() for name, t in tensors.items() if name.startswith(TRUST)}
            self.state = trust.TrustState(**state)
        except (SafetensorError, KeyError, TypeError) as error:
            raise HomeError(f"the checkpoint cannot be read ({error}): use another --home") from error
        self.require_shape(flat)
        self.flat, self.residual = flat, tensors.get("residual")
