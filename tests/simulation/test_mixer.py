"""How virtual members weigh: every way that gives a row, on numbers that tell one thing from another."""

from pathlib import Path

import pytest
import torch

from node.learning.baselines import BASELINES, ROWS
from node.learning.many import Pool
from node.learning.mixing import quantise
from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import Plan, train
from node.messages import WEIGHT_SUM
from node.simulation.mixing import Mixer
from node.simulation.run import simulate
from node.simulation.settings import SimulationSettings

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"
LEARNER = prepare(load_task(TASK))
DATA = [LEARNER.task.data(Share(index=index)) for index in range(3)]
EVERYBODY = dict.fromkeys(range(3), (0, 1, 2))
PATH = {0: (0, 1), 1: (0, 1, 2), 2: (1, 2)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(steps=60):
    start = LEARNER.initial()
    return torch.stack([train(LEARNER, start, part.train, Plan(steps, seeded(i))).flat for i, part in enumerate(DATA)])


def mixer(sharing, examples=(400, 400, 400)):
    settings = SimulationSettings(task=TASK, members=3, sharing=sharing)
    return Mixer(LEARNER, settings, Pool.of([part.validation for part in DATA]), examples)


def rows(mix, updates, peers=EVERYBODY, round=1, before=None):
    start = LEARNER.initial().repeat(3, 1) if before is None else before
    found = mix(round, peers, start, updates, [seeded(member) for member in range(3)]).rows
    return {member: list(row.values()) for member, row in zip(peers, found, strict=True)}


def test_data_size_weighs_by_the_number_of_training_examples():
    found = rows(mixer("data_size", (100, 300, 400)), trained(), {0: (0, 1, 2), 1: (0, 1)})
    assert found == {0: quantise([1, 3, 4]).tolist(), 1: quantise([1, 3]).tolist()}


def test_metropolis_weighs_by_the_degrees_in_the_graph():
    third = 1 / 3
    found = rows(mixer("metropolis"), trained(), PATH)
    assert found == {
        0: quantise([1 - third, third]).tolist(),
        1: quantise([third, third, third]).tolist(),
        2: quantise([third, 1 - third]).tolist(),
    }


def test_fedfomo_weighs_what_lowers_the_loss_per_distance_and_leaves_out_what_does_not():
    updates = trained()
    updates[1] *= -1  # worse than before training
    updates[2] = LEARNER.initial() + 2 * (updates[0] - LEARNER.initial())  # beyond the minimum, and twice as far
    found = rows(mixer("fedfomo"), updates)[0]
    assert found[1] == 0
    assert found[0] > 2 * found[2]


def test_l2c_screens_nobody_and_goes_on_from_its_last_row():
    updates, learning = trained(), mixer("l2c")
    updates[1] *= 0.97
    updates[2] = updates[1]
    first, again = (rows(learning, updates, round=round)[0] for round in (1, 2))
    assert 0 < first[1] == first[2] < WEIGHT_SUM / 3
    assert again[1] < first[1]  # ten steps more
    assert rows(mixer("learned"), updates)[0][2] == 0  # of several that are the same, one counts


def test_who_went_far_in_the_round_reaches_far():
    updates = 0.01 * torch.randn(3, LEARNER.spec.size, generator=seeded())
    updates[0] *= 0.01  # of others a hundred times as long, only a long step of our own makes sense
    stayed, went = (rows(mixer("learned"), updates, before=start)[0] for start in (updates, updates + 1.0))
    assert stayed == [WEIGHT_SUM, 0, 0]
    assert min(went) > 0


@pytest.mark.parametrize("sharing", sorted(BASELINES))
def test_a_robust_rule_is_told_how_many_attackers_are_among_those_that_are_mixed(sharing):
    settings = SimulationSettings(task=TASK, members=20, attackers=6, attack="ipm", sharing=sharing)
    updates = torch.randn(20, LEARNER.spec.size, generator=seeded())
    mix = Mixer(LEARNER, settings, Pool.of([DATA[0].validation]), [400] * 20, frozenset(range(14, 20)))
    peers = {1: (0, 1, 2, 3, 14), 5: (4, 5, 15, 16, 17, 18), 6: (6, 7, 8, 9, 10, 19), 7: (7,), 9: (3, 9, 11, 12, 13)}
    found = mix(1, peers, torch.zeros_like(updates), updates, [seeded()] * 20).flats
    for (member, chosen), flat, faulty in zip(peers.items(), found, [1, 4, 1, 0, 0], strict=True):
        others = updates[[peer for peer in chosen if peer != member]]
        torch.testing.assert_close(flat, BASELINES[sharing](updates[member], others, faulty))


@pytest.mark.real
@pytest.mark.parametrize("sharing", ROWS)
def test_every_way_that_gives_a_row_trains(sharing):
    *_, last = simulate(SimulationSettings(task=TASK, members=4, rounds=6, sharing=sharing))
    assert max(metrics["loss"] for metrics in last.metrics) < 0.03
    assert all(sum(row.values()) == WEIGHT_SUM for row in last.rows)
