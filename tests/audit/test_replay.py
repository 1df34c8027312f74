"""Each way in which a row or a mixing step can be wrong, one at a time."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from node.audit.replay import Fault, Rules, Step, check_row, open_update, replay
from node.learning import parameters
from node.learning.codecs import codec
from node.learning.mixing import mix
from node.messages import ABSENT, Input, Mix
from node.session.cohort import draw_cohort

SPEC = parameters.ParameterSpec(("bias", "weight"), ((3,), (2, 3)))
RULES = Rules(session_id=7, cohort=5, staleness=2)
FLOAT32 = codec("float32")
WEIGHTS = (30_000, 20_000, 15_535)


def sha256(content):
    return hashlib.sha256(content).digest()


@pytest.fixture
def payloads():
    generator = torch.Generator().manual_seed(1)
    return {
        (member, round): parameters.encode(SPEC, torch.randn(9, generator=generator))
        for member in range(3)
        for round in range(1, 6)
    }


@pytest.fixture
def step(payloads):
    stacked = [parameters.decode(SPEC, payloads[member, 4]) for member in range(3)]
    mixed = parameters.encode(SPEC, mix(stacked, np.array(WEIGHTS, dtype=np.uint16)))
    inputs = tuple(Input(member, weight, 0) for member, weight in enumerate(WEIGHTS))
    return Step(1, sha256(payloads[1, 4]), Mix(4, 3, inputs, sha256(mixed), None))


@pytest.fixture
def recorded(payloads):
    return lambda member, at: sha256(payloads[member, at]) if (member, at) in payloads else None


def with_inputs(step, **changes):
    """The step with member 2's entry changed."""
    inputs = (*step.mix.inputs[:2], replace(step.mix.inputs[2], **changes))
    return replace(step, mix=replace(step.mix, inputs=inputs))


def run(step, payloads, recorded):
    updates = {key: open_update(content, SPEC, FLOAT32) for key, content in payloads.items()}
    return replay(step, SPEC, recorded, updates)


def test_an_honest_step_replays(step, payloads, recorded):
    assert check_row(step, RULES) is None
    assert run(step, payloads, recorded) is True


def test_a_step_without_an_input_is_not_replayed_and_not_wrong(step, payloads, recorded):
    hashes = {key: sha256(payload) for key, payload in payloads.items()}
    del payloads[0, 4]
    assert run(step, payloads, lambda member, at: hashes.get((member, at))) is False


def test_a_changed_row_is_found(step, payloads, recorded):
    inputs = (
        replace(step.mix.inputs[0], weight=29_999),
        replace(step.mix.inputs[1], weight=20_001),
        step.mix.inputs[2],
    )
    fault = run(replace(step, mix=replace(step.mix, inputs=inputs)), payloads, recorded)
    assert (fault.member, fault.round, fault.kind) == (1, 4, "mixed parameters")


def test_one_flipped_bit_in_one_parameter_is_found_and_located(step, payloads, recorded):
    hashes = {key: sha256(payload) for key, payload in payloads.items()}
    flipped = bytearray(payloads[2, 4])
    flipped[-3] ^= 1
    payloads[2, 4] = bytes(flipped)
    fault = run(step, payloads, lambda member, at: hashes.get((member, at)))
    assert (fault.member, fault.round, fault.kind) == (2, 4, "update")


def test_a_changed_mixed_hash_is_found(step, payloads, recorded):
    fault = run(replace(step, mix=replace(step.mix, mixed_hash=b"\x01" * 32)), payloads, recorded)
    assert isinstance(fault, Fault)
    assert "01010101" in fault.found


def test_a_row_that_does_not_add_up_is_found(step):
    fault = check_row(with_inputs(step, weight=15_534), RULES)
    assert (fault.kind, fault.found) == ("row", "sum 65534")


def test_weight_for_an_absent_member_is_found(step):
    assert check_row(with_inputs(step, lag=ABSENT), RULES).kind == "row"


def test_a_stale_input_is_found(step):
    assert check_row(with_inputs(step, lag=3), RULES).kind == "staleness"


def test_a_member_that_mixes_an_older_update_of_its_own_is_found(step):
    inputs = (step.mix.inputs[0], replace(step.mix.inputs[1], lag=1), step.mix.inputs[2])
    assert check_row(replace(step, mix=replace(step.mix, inputs=inputs)), RULES).kind == "row"


def test_a_cohort_that_was_not_drawn_is_found(step):
    rules = Rules(session_id=7, cohort=2, staleness=2)
    drawn = draw_cohort(7, 4, 1, 20, 2)
    chosen = tuple(sorted({1, *(other for other in range(20) if other not in drawn and other != 1)}))[:3]
    inputs = tuple(Input(member, weight, 0) for member, weight in zip(chosen, WEIGHTS, strict=True))
    wrong = replace(step, mix=replace(step.mix, members=20, inputs=inputs))
    fault = check_row(wrong, rules)
    assert fault.kind == "cohort"
    assert fault.expected == f"members {sorted({1, *drawn})}"


def test_an_update_that_is_no_model_is_found(step, payloads):
    payloads[0, 4] = b"rubbish"
    fault = run(step, payloads, lambda member, at: sha256(payloads[member, at]))
    assert (fault.member, fault.kind) == (0, "update")
