from pathlib import Path

import pytest

from node.errors import ConfigError
from node.simulation.run import simulate
from node.simulation.settings import SimulationSettings

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"


def run(**options):
    return list(simulate(SimulationSettings(task=TASK, **{"members": 4, "rounds": 5, **options})))


def test_members_learn_and_every_row_adds_up():
    rounds = run()
    assert [finished.round for finished in rounds] == [1, 2, 3, 4, 5]
    assert all(metrics["loss"] < 0.02 for metrics in rounds[-1].metrics)
    assert all(sum(row.values()) == 65535 and len(row) == 4 for finished in rounds for row in finished.rows)


def test_the_same_seed_gives_the_same_result_bit_for_bit():
    assert run(seed=3) == run(seed=3)
    assert run(seed=3) != run(seed=4)


def test_training_that_diverges_is_a_clear_error():
    with pytest.raises(
        ConfigError, match=r"member 0 diverged in round \d+, at a learning rate of 1e\+30: take a smaller"
    ):
        run(learning_rate=1e30)


def test_attackers_that_blow_up_the_mixture_are_named():
    with pytest.raises(ConfigError, match=r"diverged in round .* or a sharing that withstands sign_flip"):
        run(members=5, attack="sign_flip", attackers=4, sharing="fixed", rounds=100, local_epochs=0.01)


def test_more_members_than_memory_holds_are_a_clear_error():
    with pytest.raises(
        ConfigError, match=r"10000 members of \d+ parameters take [\d.]+ GiB at least, and this machine"
    ):
        list(simulate(SimulationSettings(task="cifar10-resnet18", members=10_000)))


def test_without_sharing_everybody_stays_alone():
    assert all(row == {member: 65535} for member, row in enumerate(run(sharing="none")[-1].rows))


def test_a_cohort_limits_who_is_mixed():
    assert all(len(row) == 3 for finished in run(members=8, cohort=2) for row in finished.rows)


def test_fixed_sharing_gives_everybody_the_same_weight():
    assert set(run(sharing="fixed")[-1].rows[0].values()) == {16384, 16383}


def test_an_unknown_way_of_sharing_is_a_clear_error():
    with pytest.raises(ConfigError, match="no-such"):
        run(sharing="no-such")


def test_differences_are_smaller_than_the_key_frame_that_they_build_on():
    settings = SimulationSettings(codec="topk:0.05", members=2, rounds=3, local_epochs=0.01, sharing="fixed")
    rounds = list(simulate(settings))
    first, *later = [finished.payload_bytes for finished in rounds]
    assert all(size < first / 4 for size in later)
    assert rounds[-1].metrics[0]["loss"] < rounds[0].metrics[0]["loss"]
