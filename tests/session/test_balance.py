import pytest

from node.session.balance import FIRST_STEPS, KNOWN_ROUNDS, Balance, Timing


def did(member, round, steps, step_s=0.1, full=100, upload_s=0.5):
    training_s = steps * step_s
    return Timing(member, round, steps, 10 * steps, 0.0, training_s, upload_s, training_s + upload_s, full)


def test_nobody_is_named_before_anybody_was_measured():
    balance = Balance()
    assert balance.steps(range(4), 1) == ()
    assert balance.first_steps == FIRST_STEPS


def test_switched_off_it_asks_everybody_for_a_full_round():
    balance = Balance(enabled=False)
    trip_s = balance.observe(did(1, 1, 2))
    assert balance.steps(range(4), 2) == ()
    assert (balance.first_steps, trip_s) == (0, pytest.approx(0.7))


def test_a_few_steps_measure_and_say_how_long_a_full_round_will_take():
    balance = Balance()
    assert balance.observe(did(1, 1, FIRST_STEPS)) == pytest.approx(100 * 0.1 + 0.5)
    assert balance.observe(did(2, 1, FIRST_STEPS)) == pytest.approx(10.5)
    assert balance.observe(did(3, 1, FIRST_STEPS, step_s=2.0)) == pytest.approx(200.5)
    assert balance.steps(range(5), 2) == (FIRST_STEPS, 100, 100, 5, FIRST_STEPS)
    assert balance.observe(did(1, 2, 100)) == pytest.approx(10.5)


def test_the_first_measurement_of_many_steps_takes_the_place_of_that_of_a_few():
    balance = Balance()
    balance.observe(did(1, 1, FIRST_STEPS))
    balance.observe(did(2, 1, FIRST_STEPS, step_s=1.0))  # it was slow to begin
    balance.observe(did(3, 1, FIRST_STEPS))
    assert balance.steps(range(1, 4), 2) == (100, 10, 100)
    balance.observe(did(2, 2, 10))
    assert balance.steps(range(1, 4), 3) == (100, 100, 100)
    balance.observe(did(2, 3, 100, step_s=0.2))
    assert balance.steps(range(1, 4), 4)[1] == 75, "10 and 5 steps a second count alike"


def test_who_was_away_for_some_rounds_is_measured_anew():
    balance = Balance()
    for round in range(1, 10):
        balance.observe(did(1, round, 100))
    balance.observe(did(2, 5, 100))
    assert balance.steps(range(1, 3), 5 + KNOWN_ROUNDS) == (100, 100)
    assert balance.steps(range(1, 3), 6 + KNOWN_ROUNDS) == (100, FIRST_STEPS)
    balance.observe(did(2, 12, FIRST_STEPS, step_s=1.0))
    assert balance.steps(range(1, 3), 12) == (100, 55), "what was known of it before says nothing"


@pytest.mark.parametrize(("sure", "asked"), [(False, 1000), (True, 5000)])
def test_a_full_round_is_at_most_ten_times_that_of_the_others_unless_it_is_known(sure, asked):
    balance = Balance()
    balance.observe(did(1, 1, FIRST_STEPS, full=5000), sure)
    balance.observe(did(2, 1, FIRST_STEPS), sure)
    balance.observe(did(3, 1, FIRST_STEPS, step_s=10.0), sure)
    balance.observe(did(4, 1, FIRST_STEPS, step_s=10.0), sure)
    assert balance.steps(range(1, 3), 2) == (asked, 100)


def test_a_worker_whose_data_make_fewer_steps_is_measured_by_a_full_round():
    balance = Balance()
    assert balance.observe(did(1, 1, 1, full=1)) == pytest.approx(0.6)
    assert balance.steps(range(1, 2), 2) == (1,)
