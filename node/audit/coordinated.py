"""The steps of a coordinated session checked (docs/protocol.md, section 9): the chain of models, rows, adoptions.

Knows no chain and no IPFS: records and files come as functions and bytes. One object per audit, since that an update
enters once, and that one round's optimizer state follows from the round before, are properties of the whole run.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from node.audit.replay import Fault, Step, Update, UpdateHash, Updates, check_input
from node.config import Coordination
from node.errors import UpdateError
from node.learning import aggregation, parameters
from node.learning.aggregation import Moments
from node.learning.parameters import ParameterSpec
from node.messages import ABSENT, WEIGHT_SUM, Input
from node.session.succession import Term, term_of

MOMENTS = "moments.safetensors"
RELATIVE, ABSOLUTE = 1e-5, 1e-7  # float tolerance of a step of torch's optimizers


@dataclass(frozen=True, slots=True)
class StepFiles:
    """What the coordinator's snapshot of a step holds besides its update."""

    moments: bytes | None = None
    mixed: bytes | None = None


@dataclass(frozen=True, slots=True)
class CoordinatedRules:
    """What the session file says that a coordinated session can be checked against."""

    coordinators: tuple[Term, ...]  # one after another, as the ledger has them; the session's own first
    quorum: int
    staleness: int  # 0 where late updates are dropped
    initial: bytes  # SHA-256 of the initial parameters
    coordination: Coordination
    rounds: int

    def coordinator(self, round: int) -> int:
        """Who coordinated a round."""
        return term_of(self.coordinators, round).member

    def began(self, round: int) -> int:
        """The first round of its coordinator, in which the optimizer's state is a fresh one."""
        return term_of(self.coordinators, round).first

    def is_coordinators(self, step: Step) -> bool:
        """Whether a step is its round's coordinator's."""
        return step.member == self.coordinator(step.round)


@dataclass
class CoordinatedCheck:
    """Checks one step after another; those of one member in ascending order of their rounds."""

    rules: CoordinatedRules
    recorded: UpdateHash
    mixed: Callable[[int], bytes | None]  # round -> what the coordinator recorded as its mix of that round
    passed: Callable[[int], bool] = lambda _round: False  # whether the coordinator can't record a round any more
    _entered: dict[tuple[int, int], int] = field(default_factory=dict)  # update -> the round in which it entered
    _after: tuple[int, Moments] | None = None  # round, the moments that a replayed step left

    def check_row(self, step: Step) -> Fault | None:
        """The first thing that is wrong with a row by itself."""
        if self.rules.is_coordinators(step):
            return self._check_model(step) or self._check_coordinator(step)
        return self._check_fork(step) or self._check_adoption(step)

    def _check_fork(self, step: Step) -> Fault | None:
        """Two must not coordinate one round: a coordinator's row of a member that is none in that round."""
        entries = [entry for entry in step.mix.inputs if entry.member != step.member]
        was_one = any(term.member == step.member for term in self.rules.coordinators)
        if was_one and all(entry.lag >= 0 or entry.lag == ABSENT for entry in entries):
            found = f"the row of a coordinator, which member {self.rules.coordinator(step.round)} was"
            return _fault(step, "fork", "a worker's row, or none", found)
        return None

    def _check_model(self, step: Step) -> Fault | None:
        """The model that workers were given is the one that the coordinator had mixed."""
        before = self.rules.initial if step.round == 1 else self._before(step.round)
        if before == step.update_hash:
            return None
        expected = f"the model that it recorded as its mix of round {step.round - 1}, "
        expected += "which it never did" if before is None else f"SHA-256 {before.hex()}"
        return _fault(step, "model", expected, f"SHA-256 {step.update_hash.hex()}")

    def _check_coordinator(self, step: Step) -> Fault | None:
        inputs = step.mix.inputs
        if [entry.member for entry in inputs] != list(range(step.mix.members)):
            return _fault(step, "row", f"members 0 to {step.mix.members - 1}", str([entry.member for entry in inputs]))
        total = sum(entry.weight for entry in inputs)
        least = 1 if self.is_inexact() else WEIGHT_SUM  # of gradients: any proportions
        if not least <= total <= WEIGHT_SUM:
            expected = f"{least} to {WEIGHT_SUM}" if least < WEIGHT_SUM else f"{WEIGHT_SUM}"
            return _fault(step, "row", f"weights that add up to {expected}", f"sum {total}")
        for entry in inputs:
            number = entry.member - int(entry.member > step.member)
            if entry.weight and entry.member != step.member and number >= self.rules.coordination.maximum:
                return _fault(step, "row", f"at most {self.rules.coordination.maximum} workers", f"worker {number}")
            if entry.member != step.member and entry.lag < 0 and entry.lag != ABSENT:
                return _fault(step, "row", f"input {entry.member} of this round or older", f"lag {entry.lag}")
            fault = check_input(step, entry, self.rules.staleness)
            if fault is not None:
                return fault
        return self._check_quorum(step) or (None if self._is_void(step) else self._check_once(step))

    def _is_void(self, step: Step) -> bool:
        """Whether the row's model came too late to be given out: another one goes on from the model before."""
        return any(term.first == step.round + 1 for term in self.rules.coordinators[1:])

    def _check_quorum(self, step: Step) -> Fault | None:
        came = sum(entry.lag != ABSENT for entry in step.mix.inputs if entry.member != step.member)
        if came < self.rules.quorum:
            return _fault(step, "quorum", f"at least {self.rules.quorum} updates", f"{came}")
        return None

    def _check_once(self, step: Step) -> Fault | None:
        for entry in step.mix.inputs:
            if entry.lag == ABSENT or entry.member == step.member:
                continue
            update = entry.member, step.round - entry.lag
            first = self._entered.setdefault(update, step.round)
            if first != step.round:
                who = f"the update of member {update[0]}, round {update[1]}"
                return _fault(step, "row", f"{who} once", f"again after round {first}")
        oldest = step.round - self.rules.staleness  # what is older can't enter any more
        self._entered = {update: round for update, round in self._entered.items() if update[1] >= oldest}
        return None

    def _check_adoption(self, step: Step) -> Fault | None:
        """A worker's row: itself with nothing, the coordinator's later model with everything."""
        given = self._adopted(step)
        coordinator = self.rules.coordinator(step.round if given is None else step.round - given.lag)
        by_member = {entry.member: entry for entry in step.mix.inputs}
        if set(by_member) != {step.member, coordinator} or len(step.mix.inputs) != 2:
            expected = f"members {sorted((step.member, coordinator))}"
            return _fault(step, "row", expected, f"members {[entry.member for entry in step.mix.inputs]}")
        own, given = by_member[step.member], by_member[coordinator]
        if (own.weight, own.lag, given.weight) != (0, 0, WEIGHT_SUM) or not ABSENT < given.lag < 0:
            return _fault(step, "row", "the coordinator's later model alone", f"{own}, {given}")
        round = step.round - given.lag
        models = self._models(round)
        if not models and (round > self.rules.rounds + 1 or self.passed(round - 1)):
            expected = f"a model that the coordinator recorded, of rounds 2 to {self.rules.rounds + 1}"
            return _fault(step, "input", expected, f"that of round {round}")
        if models and step.mix.mixed_hash not in models:
            expected = " or ".join(f"SHA-256 {model.hex()}" for model in models)
            return _fault(step, "mixed parameters", expected, f"SHA-256 {step.mix.mixed_hash.hex()}")
        return None

    def _adopted(self, step: Step) -> Input | None:
        """The entry of the model that a worker took over, which is of a later round."""
        return next((e for e in step.mix.inputs if e.member != step.member and ABSENT < e.lag < 0), None)

    def _before(self, round: int) -> bytes | None:
        """The hash of what a round's model has to be: the mix of the round before, or the last model of who is gone."""
        for last, term in pairwise(self.rules.coordinators):
            if term.first == round:
                return self.recorded(last.member, round - 1)
        return self.mixed(round - 1)

    def _models(self, round: int) -> list[bytes]:
        """The hashes of the model that the coordinator gave out for a round: what it committed to, and had mixed.

        They are one unless it lied, for which no worker is to blame; none while it recorded none.
        """
        found = (self.recorded(self.rules.coordinator(round), round), self._before(round))
        return list(dict.fromkeys(model for model in found if model is not None))

    def adopts_known_model(self, step: Step) -> bool:
        """Whether a worker's step is proved by hashes alone: the model it took over is on the coordinator's record."""
        given = self._adopted(step)
        return given is not None and bool(self._models(step.round - given.lag))

    def is_adaptive(self) -> bool:
        """Whether a step needs the optimizer's state besides the updates."""
        return aggregation.has_moments(self.rules.coordination.aggregation)

    def is_inexact(self) -> bool:
        """Whether a step can be taken again to float tolerance only."""
        return self.rules.coordination.aggregation.rule in aggregation.OPTIMIZERS

    def needed(self, step: Step) -> list[tuple[int, int]]:
        """The updates, by member and round, that the coordinator's step is replayed from; the old model among them."""
        used = [(entry.member, step.round - entry.lag) for entry in step.mix.inputs if entry.weight]
        return sorted({*used, (step.member, step.round)})

    def replay(self, step: Step, spec: ParameterSpec, updates: Updates, files: StepFiles) -> Fault | bool:
        """The coordinator's step again: a Fault, True if it is right, False where files are missing.

        Bit for bit, but for torch's own optimizers, which may round otherwise elsewhere: those to float tolerance.
        """
        moments = files.moments
        adaptive = self.is_adaptive()
        if any(key not in updates for key in self.needed(step)) or (adaptive and moments is None):
            return False
        vectors = {}
        for key in self.needed(step):
            vector = self._vector(step, key, updates[key])
            if isinstance(vector, Fault):
                return vector
            vectors[key] = vector
        before = self._moments(step, moments, spec.size) if adaptive and moments is not None else None
        if isinstance(before, Fault):
            return before
        used = [entry for entry in step.mix.inputs if entry.weight]
        inputs = [vectors[entry.member, step.round - entry.lag] for entry in used]
        weights = np.array([entry.weight for entry in used], dtype=np.uint16)
        rule, model = self.rules.coordination.aggregation, vectors[step.member, step.round]
        when = aggregation.When(step.round, self.rules.rounds, self.rules.began(step.round))
        settled = aggregation.settle(rule, model, inputs, weights, before, when)
        digest = hashlib.sha256(parameters.encode(spec, settled.flat)).digest()
        if digest != step.mix.mixed_hash and not self._is_close(step, spec, settled.flat, files.mixed):
            found = f"SHA-256 {step.mix.mixed_hash.hex()}"
            return _fault(step, "mixed parameters", f"SHA-256 {digest.hex()}", found)
        if settled.moments is not None:
            self._after = step.round, settled.moments
        return True

    def _is_close(self, step: Step, spec: ParameterSpec, flat: Tensor, mixed: bytes | None) -> bool:
        if not self.is_inexact() or mixed is None or hashlib.sha256(mixed).digest() != step.mix.mixed_hash:
            return False
        try:
            return torch.allclose(parameters.decode(spec, mixed), flat, rtol=RELATIVE, atol=ABSOLUTE)
        except UpdateError:
            return False

    def _vector(self, step: Step, key: tuple[int, int], update: Update) -> Tensor | Fault:
        """The parameters of an update, if it is the one that its member committed to."""
        expected = step.update_hash if key == (step.member, step.round) else self.recorded(*key)
        if expected != update.digest:
            return Fault(*key, "update", f"SHA-256 {(expected or b'').hex()}", f"SHA-256 {update.digest.hex()}")
        if update.vector is None:
            return Fault(*key, "update", "parameters of the model", update.flaw)
        return update.vector

    def _moments(self, step: Step, content: bytes, size: int) -> Moments | Fault:
        """The optimizer's state before the step: fresh in a coordinator's first round, else what the last step left.

        Where the step before could not be replayed, it is taken as it is said to be.
        """
        try:
            said = aggregation.decode_moments(self.rules.coordination.aggregation, content, size)
        except UpdateError as error:
            return _fault(step, "optimizer state", f"the moments of {size} numbers", str(error))
        expected = self._after[1] if self._after is not None and self._after[0] == step.round - 1 else None
        if step.round == self.rules.began(step.round):
            expected = aggregation.fresh_moments(self.rules.coordination.aggregation, size)
        if expected is not None and not self._same(said, expected):
            return _fault(step, "optimizer state", "a fresh one, or that after the round before", "another")
        return said

    def _same(self, said: Moments, expected: Moments) -> bool:
        if not self.is_inexact():
            return torch.equal(said.first, expected.first) and torch.equal(said.second, expected.second)
        pairs = ((said.first, expected.first), (said.second, expected.second))
        return all(torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE) for one, other in pairs)


def _fault(step: Step, kind: str, expected: str, found: str) -> Fault:
    return Fault(step.member, step.round, kind, expected, found)
