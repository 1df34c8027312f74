"""Every fault of a coordinated session that the audit is to find, put into records that are otherwise right."""

import hashlib
from dataclasses import dataclass, replace

import pytest
import torch

from node.audit.coordinated import CoordinatedCheck, CoordinatedRules, StepFiles
from node.audit.replay import Fault, Step, Update
from node.config import Aggregation, Coordination
from node.learning import aggregation, parameters
from node.learning.aggregation import When, settle
from node.learning.mixing import proportions, quantise
from node.learning.parameters import ParameterSpec
from node.messages import ABSENT, Input, Mix
from node.session.succession import Term

SPEC = ParameterSpec(("w",), ((30,),))
WORKERS, ROUNDS = 3, 4


def sha(vector):
    return hashlib.sha256(parameters.encode(SPEC, vector)).digest()


@dataclass
class Session:
    """What everybody recorded, by (member, round), and what the snapshots hold."""

    rule: Aggregation
    steps: list[Step]
    hashes: dict[tuple[int, int], bytes]
    vectors: dict[tuple[int, int], torch.Tensor]
    moments: dict[int, bytes]
    initial: bytes
    terms: tuple[Term, ...] = ()

    def recorded(self, member, round):
        return self.hashes.get((member, round))

    def faults(self, quorum=2, staleness=2, maximum=65_535):
        coordination = Coordination(coordinator="0x" + "ab" * 20, aggregation=self.rule, maximum=maximum)
        rules = CoordinatedRules((Term(0), *self.terms), quorum, staleness, self.initial, coordination, ROUNDS)

        def mixed(round):
            key = (rules.coordinator(round), round)
            return next((step.mix.mixed_hash for step in self.steps if (step.member, step.round) == key), None)

        check = CoordinatedCheck(rules, self.recorded, mixed, lambda before: before < ROUNDS)
        found, replayed = [], 0
        for step in self.steps:
            fault = check.check_row(step)
            if fault is None and rules.is_coordinators(step):
                updates = {key: Update(sha(self.vectors[key]), self.vectors[key]) for key in check.needed(step)}
                outcome = check.replay(step, SPEC, updates, StepFiles(self.moments.get(step.round)))
                fault = outcome if isinstance(outcome, Fault) else None
                replayed += outcome is True
            if fault is not None:
                found.append((fault.member, fault.round, fault.kind))
        return found, replayed

    def change(self, member, round, **changes):
        self.steps = [
            replace(step, **({"mix": replace(step.mix, **changes)} if "update_hash" not in changes else changes))
            if (step.member, step.round) == (member, round)
            else step
            for step in self.steps
        ]


def weights_of(rule, row):
    return proportions(row) if rule.rule in aggregation.OPTIMIZERS else quantise(row)


def honest(rule=None, weights_of=weights_of):
    rule = rule or Aggregation()
    generator = torch.Generator().manual_seed(5)
    model, moments = torch.randn(30, generator=generator), None
    session = Session(rule, [], {}, {}, {}, sha(model))
    for round in range(1, ROUNDS + 1):
        session.vectors[0, round], session.hashes[0, round] = model, sha(model)
        if aggregation.has_moments(rule):
            before = moments or aggregation.fresh_moments(rule, 30)
            session.moments[round] = aggregation.encode_moments(before)
        for member in range(1, WORKERS + 1):
            session.vectors[member, round] = model + torch.randn(30, generator=generator)
            session.hashes[member, round] = sha(session.vectors[member, round])
        row = weights_of(rule, [0.0, 3.0, 2.0, 1.0])
        inputs = [session.vectors[member, round] for member in (1, 2, 3)]
        settled = settle(rule, model, inputs, row[1:], moments, When(round, ROUNDS))
        entries = tuple(Input(member, int(weight), 0) for member, weight in enumerate(row))
        mix = Mix(round, WORKERS + 1, entries, sha(settled.flat), None)
        session.steps.append(Step(0, sha(model), mix))
        for member in range(1, WORKERS + 1):
            adopted = (Input(0, 65535, -1), Input(member, 0, 0))
            mix = Mix(round, WORKERS + 1, adopted, sha(settled.flat), None)
            session.steps.append(Step(member, session.hashes[member, round], mix))
        model, moments = settled.flat, settled.moments
    return session


def inputs_of(session, round):
    return next(step for step in session.steps if (step.member, step.round) == (0, round)).mix.inputs


RULES = ["fedavg", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "sgd", "adam"]


@pytest.mark.parametrize("name", RULES)
def test_an_honest_session_is_clean(name):
    assert honest(Aggregation(rule=name, faulty=1)).faults() == ([], ROUNDS)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_rows_of_gradients_that_nodes_of_before_recorded_are_clean_too(name):
    session = honest(Aggregation(rule=name), lambda _rule, row: quantise(row))
    assert sum(entry.weight for entry in inputs_of(session, 2)) == 65535
    assert session.faults() == ([], ROUNDS)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_gradients_that_were_mixed_in_other_proportions_are_found(name):
    session = honest(Aggregation(rule=name))
    own, first, second, third = inputs_of(session, 2)
    assert [own.weight, first.weight, second.weight, third.weight] == [0, 3, 2, 1]
    session.change(0, 2, inputs=(own, replace(first, weight=2), second, third))
    assert session.faults()[0][0] == (0, 2, "mixed parameters")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("fedavg", (3, 2, 1)),
        ("fedadam", (3, 2, 1)),
        ("median", (1, 1, 1)),
        ("sgd", (65535, 1, 0)),
        ("adam", (0, 0, 0)),
    ],
)
def test_a_sum_that_the_sessions_rows_do_not_have_is_found(name, weights):
    session = honest(Aggregation(rule=name))
    own, *others = inputs_of(session, 2)
    changed = [replace(entry, weight=weight) for entry, weight in zip(others, weights, strict=True)]
    session.change(0, 2, inputs=(own, *changed))
    assert session.faults()[0] == [(0, 2, "row")]


def test_a_model_that_was_not_mixed_is_found():
    session = honest()
    session.change(0, 3, update_hash=bytes(32))
    assert (0, 3, "model") in session.faults()[0]


def test_another_first_model_is_found():
    session = honest()
    session.initial = bytes(32)
    assert session.faults()[0] == [(0, 1, "model")]


def test_weights_that_were_not_used_are_found():
    session = honest()
    own, first, second, third = inputs_of(session, 2)
    swapped = (own, replace(first, weight=second.weight), replace(second, weight=first.weight), third)
    session.change(0, 2, inputs=swapped)
    assert session.faults()[0] == [(0, 2, "mixed parameters")]


def test_a_row_that_leaves_out_a_member_is_found():
    session = honest()
    own, first, second, third = inputs_of(session, 2)
    session.change(0, 2, inputs=(own, replace(first, weight=first.weight + third.weight), second))
    assert session.faults()[0] == [(0, 2, "row")]


def test_a_round_below_its_quorum_is_found():
    session = honest()
    own, first, second, third = inputs_of(session, 2)
    rest = (replace(second, weight=0, lag=ABSENT), replace(third, weight=0, lag=ABSENT))
    session.change(0, 2, inputs=(own, replace(first, weight=65535), *rest))
    assert session.faults()[0] == [(0, 2, "quorum")]


def test_an_update_that_enters_twice_is_found():
    session = honest()
    own, first, second, third = inputs_of(session, 3)
    session.change(0, 3, inputs=(own, replace(first, lag=1), second, third))
    assert (0, 3, "row") in session.faults()[0]


def test_an_update_that_is_too_old_is_found():
    session = honest()
    own, first, second, third = inputs_of(session, 3)
    session.change(0, 3, inputs=(own, replace(first, lag=1), second, third))
    assert (0, 3, "staleness") in session.faults(staleness=0)[0]


def test_an_update_of_the_future_is_found():
    session = honest()
    own, first, second, third = inputs_of(session, 3)
    session.change(0, 3, inputs=(own, replace(first, lag=-1), second, third))
    assert (0, 3, "row") in session.faults()[0]


def test_a_worker_beyond_the_maximum_is_found():
    assert (0, 1, "row") in honest().faults(maximum=2)[0]


def test_a_worker_that_took_over_something_else_is_found():
    session = honest()
    session.change(2, 3, mixed_hash=bytes(32))
    assert session.faults()[0] == [(2, 3, "mixed parameters")]


def test_a_worker_that_claims_to_mix_for_itself_is_found():
    session = honest()
    session.change(2, 3, inputs=(Input(0, 65534, -1), Input(2, 1, 0)))
    assert session.faults()[0] == [(2, 3, "row")]


def test_the_last_model_is_known_from_the_closing_record():
    session = honest()
    session.change(1, ROUNDS, mixed_hash=bytes(32))
    assert session.faults()[0] == [(1, ROUNDS, "mixed parameters")]


@pytest.mark.parametrize("name", ["fedadam", "adam"])
@pytest.mark.parametrize("round", [1, 3])
def test_an_optimizer_that_remembers_something_else_is_found(name, round):
    session = honest(Aggregation(rule=name))
    said = aggregation.decode_moments(session.rule, session.moments[round], 30)
    session.moments[round] = aggregation.encode_moments(aggregation.Moments(said.first + 1, said.second))
    assert (0, round, "optimizer state") in session.faults()[0]


def test_a_step_of_torchs_optimizer_is_compared_to_float_tolerance():
    session = honest(Aggregation(rule="sgd"))
    step = next(step for step in session.steps if (step.member, step.round) == (0, ROUNDS))
    keys = [(0, ROUNDS), *((member, ROUNDS) for member in (1, 2, 3))]
    updates = {key: Update(sha(session.vectors[key]), session.vectors[key]) for key in keys}
    coordination = Coordination(coordinator="0x" + "ab" * 20, aggregation=session.rule)
    rules = CoordinatedRules((Term(0),), 2, 2, session.initial, coordination, ROUNDS)
    moments = aggregation.decode_moments(session.rule, session.moments[ROUNDS], 30)
    row = proportions([3.0, 2.0, 1.0])
    inputs = [session.vectors[key] for key in keys[1:]]
    exact = settle(session.rule, session.vectors[keys[0]], inputs, row, moments, When(ROUNDS, ROUNDS)).flat
    for factor, right in ((1 + 1e-6, True), (1 + 1e-3, False)):
        mixed = exact * factor
        said = replace(step, mix=replace(step.mix, mixed_hash=sha(mixed)))
        files = StepFiles(session.moments[ROUNDS], parameters.encode(SPEC, mixed))
        check = CoordinatedCheck(rules, session.recorded, lambda _round: None)
        assert (check.replay(said, SPEC, updates, files) is True) is right


def test_a_model_after_rounds_that_the_coordinator_left_out_is_found():
    session = honest()
    session.steps = [step for step in session.steps if step.round != 2]
    del session.hashes[0, 2]
    assert (0, 3, "model") in session.faults()[0]


def test_a_worker_is_not_to_blame_for_a_coordinator_that_commits_to_another_model():
    session = honest()
    session.change(0, 2, update_hash=bytes(32))
    session.hashes[0, 2] = bytes(32)
    assert session.faults()[0] == [(0, 2, "model")]


def test_a_worker_that_claims_a_model_of_no_round_is_found():
    session = honest()
    session.change(1, 3, inputs=(Input(0, 65535, -90), Input(1, 0, 0)), mixed_hash=bytes(32))
    assert session.faults()[0] == [(1, 3, "input")]


def handed_over(at=3, rule=None):
    """A session whose coordinator, member 0, is gone after its record of round `at` − 1; member 1 goes on."""
    session, old = honest(rule), at - 1
    model, moments = session.vectors[0, old], None
    kept = [s for s in session.steps if s.round < old or (s.member not in (0, 1) and s.round == old)]
    session.terms = (Term(1, at),)
    del session.hashes[1, old]
    for round in range(at, ROUNDS + 1):
        for key in ((0, round), (1, round)):
            session.hashes.pop(key, None)
        session.vectors[1, round], session.hashes[1, round] = model, sha(model)
        row = weights_of(session.rule, [0.0, 0.0, 2.0, 1.0])
        used = [session.vectors[member, round] for member in (2, 3)]
        if aggregation.has_moments(session.rule):
            before = moments or aggregation.fresh_moments(session.rule, 30)
            session.moments[round] = aggregation.encode_moments(before)
        settled = settle(session.rule, model, used, row[2:], moments, When(round, ROUNDS, at))
        lags = (ABSENT, 0, 0, 0)
        entries = tuple(Input(m, int(w), lag) for m, (w, lag) in enumerate(zip(row, lags, strict=True)))
        kept.append(Step(1, sha(model), Mix(round, WORKERS + 1, entries, sha(settled.flat), None)))
        for member in (2, 3):
            adopted = (Input(1, 65535, -1), Input(member, 0, 0))
            kept.append(Step(member, session.hashes[member, round], Mix(round, 4, adopted, sha(settled.flat), None)))
        model, moments = settled.flat, settled.moments
    start = session.hashes[1, at]
    session.steps = [
        replace(s, mix=replace(s.mix, inputs=(Input(1, 65535, -1), Input(s.member, 0, 0)), mixed_hash=start))
        if s.member in (2, 3) and s.round == old
        else s
        for s in kept
    ]
    return session


@pytest.mark.parametrize("name", RULES)
def test_a_change_of_coordinator_is_clean(name):
    session = handed_over(rule=Aggregation(rule=name, faulty=1))
    assert session.faults() == ([], ROUNDS - 1)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad", "sgd", "adam"])
def test_a_new_coordinator_that_goes_on_with_the_old_ones_optimizer_is_found(name):
    session = handed_over(rule=Aggregation(rule=name))
    session.moments[3] = honest(session.rule).moments[3]
    assert (1, 3, "optimizer state") in session.faults()[0]


def test_adam_counts_its_steps_from_the_new_coordinators_first_round():
    rule = Aggregation(rule="adam")
    fresh = aggregation.fresh_moments(rule, 30)
    model, gradient = torch.zeros(30), torch.randn(30, generator=torch.Generator().manual_seed(2))
    row = quantise([1.0])
    first = settle(rule, model, [gradient], row, fresh, When(1, ROUNDS)).flat
    assert torch.equal(settle(rule, model, [gradient], row, fresh, When(3, ROUNDS, began=3)).flat, first)
    assert not torch.allclose(settle(rule, model, [gradient], row, fresh, When(3, ROUNDS)).flat, first)


def test_a_new_coordinator_that_does_not_go_on_from_the_last_model_is_found():
    session = handed_over()
    session.change(1, 3, update_hash=bytes(32))
    assert (1, 3, "model") in session.faults()[0]


def test_two_coordinators_of_one_round_are_a_fork():
    session = handed_over()
    entries = tuple(Input(member, 0 if member < 3 else 65535, 0) for member in range(4))
    session.hashes[0, 3] = bytes(32)
    session.steps.append(Step(0, bytes(32), Mix(3, 4, entries, bytes(32), None)))
    assert session.faults()[0] == [(0, 3, "fork")]


def test_a_worker_that_adopts_from_the_old_coordinator_is_found():
    session = handed_over()
    session.change(2, 3, inputs=(Input(0, 65535, -1), Input(2, 0, 0)))
    assert session.faults()[0] == [(2, 3, "row")]
