"""One mixing step replayed from the ledger's words and the snapshots' bytes, bit for bit. Knows no chain, no IPFS."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from node.errors import UpdateError
from node.learning import parameters
from node.learning.codecs import Codec
from node.learning.mixing import mix
from node.learning.parameters import ParameterSpec
from node.messages import ABSENT, WEIGHT_SUM, Input, Mix
from node.session.cohort import draw_cohort


@dataclass(frozen=True, slots=True)
class Fault:
    """Evidence of wrongdoing: who, when, what kind, what was expected, what was found."""

    member: int
    round: int
    kind: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What the session file says that a row can be checked against."""

    session_id: int
    cohort: int
    staleness: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a member recorded of one round."""

    member: int
    update_hash: bytes
    mix: Mix

    @property
    def round(self) -> int:
        """The round that was mixed."""
        return self.mix.round


@dataclass(frozen=True, slots=True)
class Update:
    """What a snapshot holds as a member's update: its SHA-256, and its parameters or why it has none."""

    digest: bytes
    vector: Tensor | None
    flaw: str = ""


UpdateHash = Callable[[int, int], bytes | None]  # (member, round) -> the recorded hash
Updates = Mapping[tuple[int, int], Update]  # (member, round) -> the snapshot's update, where there is one


def check_row(step: Step, rules: Rules) -> Fault | None:
    """The first thing that is wrong with a row by itself: its members, its weights, its lags."""
    inputs, round = step.mix.inputs, step.round
    drawn = draw_cohort(rules.session_id, round, step.member, step.mix.members, rules.cohort)
    expected = sorted({step.member, *drawn})
    found = [entry.member for entry in inputs]
    if found != expected:
        return Fault(step.member, round, "cohort", f"members {expected}", f"members {found}")
    total = sum(entry.weight for entry in inputs)
    if total != WEIGHT_SUM:
        return Fault(step.member, round, "row", f"weights that add up to {WEIGHT_SUM}", f"sum {total}")
    for entry in inputs:
        fault = check_input(step, entry, rules.staleness)
        if fault is not None:
            return fault
    return None


def check_input(step: Step, entry: Input, staleness: int) -> Fault | None:
    """The first thing that is wrong with one entry of a row; an update is at most `staleness` rounds old."""
    who = f"input {entry.member}"
    if entry.lag == ABSENT:
        if entry.weight:
            return Fault(step.member, step.round, "row", f"{who} absent, weight 0", f"weight {entry.weight}")
        return None
    if entry.member == step.member and entry.lag:
        return Fault(step.member, step.round, "row", "its own update of the round", f"lag {entry.lag}")
    if entry.lag > staleness:
        return Fault(step.member, step.round, "staleness", f"{who} at most {staleness} old", f"lag {entry.lag}")
    return None


def open_update(content: bytes, spec: ParameterSpec, codec: Codec, earlier: Sequence[bytes] = ()) -> Update:
    """A snapshot's update, hashed and decoded, with what it builds on. Raises nothing: the bytes may be anything."""
    digest = hashlib.sha256(content).digest()
    held = {hashlib.sha256(payload).digest(): payload for payload in earlier}
    try:
        return Update(digest, codec.decode(spec, content, held.get))
    except UpdateError as error:
        return Update(digest, None, str(error))


def replay(step: Step, spec: ParameterSpec, recorded: UpdateHash, updates: Updates) -> Fault | bool:
    """Recomputes the mixed parameters: a Fault, True if they are what was recorded, False without the snapshots."""
    used = [entry for entry in step.mix.inputs if entry.weight]
    vectors = []
    for entry in used:
        round = step.round - entry.lag
        update = updates.get((entry.member, round))
        if update is None:
            return False
        expected = recorded(entry.member, round)
        if update.digest != expected:
            return _differs(entry.member, round, "update", expected or b"", update.digest)
        if update.vector is None:
            return Fault(entry.member, round, "update", "parameters of the model", update.flaw)
        vectors.append(update.vector)
    weights = np.array([entry.weight for entry in used], dtype=np.uint16)
    digest = hashlib.sha256(parameters.encode(spec, mix(vectors, weights))).digest()
    if digest != step.mix.mixed_hash:
        return _differs(step.member, step.round, "mixed parameters", digest, step.mix.mixed_hash)
    return True


def _differs(member: int, round: int, kind: str, expected: bytes, found: bytes) -> Fault:
    return Fault(member, round, kind, f"SHA-256 {expected.hex()}", f"SHA-256 {found.hex()}")


def fault_json(fault: Fault | None) -> Mapping[str, object] | None:
    """A fault for programs."""
    if fault is None:
        return None
    return {
        "member": fault.member,
        "round": fault.round,
        "kind": fault.kind,
        "expected": fault.expected,
        "found": fault.found,
    }
