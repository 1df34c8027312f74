import json
import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from node.errors import ConfigError
from node.learning.accounting import (
    Budget,
    Release,
    affords,
    calibrate,
    extended,
    history_fields,
    parse_history,
    spent,
)

BUDGETS = {"prv": Budget(3.0, 1e-5, "prv"), "rdp": Budget(3.0, 1e-5, "rdp")}
ROUND = Release(1.1, 0.05, 20)


def after(rounds, release=ROUND):
    history = ()
    for _ in range(rounds):
        history = extended(history, release)
    return history


@pytest.mark.real
@pytest.mark.parametrize(("name", "accountant"), [("prv", PRVAccountant), ("rdp", RDPAccountant)])
def test_epsilon_is_the_accountants_own_step_by_step(name, accountant):
    oracle = accountant()
    for _ in range(60):
        oracle.step(noise_multiplier=1.1, sample_rate=0.05)
    for _ in range(20):
        oracle.step(noise_multiplier=1.5, sample_rate=0.1)
    history = extended(after(3), Release(1.5, 0.1, 20))
    assert spent(history, BUDGETS[name]) == pytest.approx(oracle.get_epsilon(1e-5), rel=1e-9)


def test_nothing_spent_is_zero():
    assert spent((), BUDGETS["prv"]) == 0.0


def test_equal_rounds_are_one_entry_and_others_are_not():
    assert after(3) == (Release(1.1, 0.05, 60),)
    other = Release(1.2, 0.05, 20)
    assert extended(extended(after(1), other), ROUND) == (ROUND, other, ROUND)


@pytest.mark.real
@pytest.mark.parametrize("name", ["prv", "rdp"])
def test_restarts_change_nothing(name):
    undisturbed, restarted = after(6), ()
    for _ in range(6):
        kept = json.dumps(history_fields(extended(restarted, ROUND)))
        restarted = parse_history(json.loads(kept))
    assert restarted == undisturbed
    assert spent(restarted, BUDGETS[name]) == spent(undisturbed, BUDGETS[name])


@pytest.mark.real
@pytest.mark.parametrize("name", ["prv", "rdp"])
@pytest.mark.parametrize(("rate", "rounds", "steps"), [(0.05, 20, 20), (0.01, 5, 100)])
def test_calibrated_noise_lasts_to_the_last_round_and_no_further(name, rate, rounds, steps):
    budget = BUDGETS[name]
    release = Release(calibrate(budget, rate, rounds * steps), rate, steps)
    assert affords(after(rounds - 1, release), release, budget)
    total = spent(after(rounds, release), budget)
    assert budget.epsilon * 0.99 <= total <= budget.epsilon
    assert not affords(after(rounds, release), release, budget)


@pytest.mark.real
def test_prv_is_tighter_than_rdp():
    assert spent(after(20), BUDGETS["prv"]) < spent(after(20), BUDGETS["rdp"])


@pytest.mark.real
def test_full_batches_need_the_rdp_accountant():
    full = Release(8.0, 1.0, 20)
    assert math.isfinite(spent((full,), BUDGETS["rdp"]))
    with pytest.raises(ConfigError, match="choose the accountant rdp"):
        spent((full,), BUDGETS["prv"])


@pytest.mark.real
def test_noise_beyond_what_the_accountant_can_handle_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"no epsilon for 10 steps at sample rate 0\.01 and noise 0\.001"):
        spent((Release(1e-3, 0.01, 10),), BUDGETS["prv"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Budget(0.0, 1e-5), "epsilon 0.0"),
        (lambda: Budget(math.inf, 1e-5), "epsilon inf"),
        (lambda: Budget(math.nan, 1e-5), "epsilon nan"),
        (lambda: Budget(3.0, 0.0), "delta 0.0"),
        (lambda: Budget(3.0, 1.0), "delta 1.0"),
        (lambda: Budget(3.0, 1e-5, "ours"), "choose one of prv, rdp"),
        (lambda: Release(0.0, 0.1, 1), "noise multiplier 0.0"),
        (lambda: Release(math.nan, 0.1, 1), "noise multiplier nan"),
        (lambda: Release(1.0, 0.0, 1), "sample rate 0.0"),
        (lambda: Release(1.0, 1.1, 1), "sample rate 1.1"),
        (lambda: Release(1.0, 0.1, 0), "0 private steps"),
        (lambda: parse_history([[1.0, 0.1]]), "cannot be read"),
        (lambda: parse_history([["a", 0.1, 1]]), "cannot be read"),
        (lambda: parse_history(7), "cannot be read"),
        (lambda: parse_history([[1.0, 0.1, 0]]), "0 private steps"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()
