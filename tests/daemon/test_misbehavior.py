import statistics

import numpy as np
import pytest
import torch
from torch import nn

from node.daemon.learner import Seat, TorchLearner
from node.daemon.misbehavior import without_own
from node.daemon.prepare import misbehave
from node.errors import ConfigError
from node.learning.codecs import codec
from node.learning.task import Examples, LocalSplit, Task, prepare
from node.learning.trust import TrustSettings
from node.messages import WEIGHT_SUM
from node.session.ports import Contribution
from node.simulation.attacks import KINDS, POISONS, Scene, forge, require_attack

MEMBERS, ATTACKER = 4, 2
HARMFUL = ["sign_flip", "gaussian", "label_flip", "copy"]


def images(share) -> LocalSplit:
    """Three classes, each of them bright in one place, in noise."""
    generator = torch.Generator().manual_seed(100 + share.index)

    def seen(count: int) -> Examples:
        targets = torch.randint(3, (count,), generator=generator)
        inputs = 0.3 * torch.randn(count, 1, 6, 6, generator=generator)
        inputs[range(count), 0, 5, 2 * targets] += 2.0
        return Examples(inputs, targets)

    return LocalSplit(seen(150), seen(60), seen(100))


task = Task(
    name="bright-spots",
    model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
    data=images,
    classes=3,
    learning_rate=0.3,
    batch_size=10,
)


class At:
    def __init__(self, index):
        self.index = index


def learner(member, attack=None):
    made = prepare(task, seed=3)
    seat = Seat(7, 3, member)
    result = TorchLearner(made, images(At(member)), codec("float32"), seat, TrustSettings(), made.initial())
    if attack is not None:
        misbehave(result, attack)
    return result


async def rounds(learners, count):
    """So many rounds of everybody with everybody, in memory; what each round mixed, member by member."""
    mixed = []
    for round in range(1, count + 1):
        sent = [await one.train(round) for one in learners]
        came = [Contribution(member, round, each.payload) for member, each in enumerate(sent)]
        mixed.append(
            [await one.mix(round, sent[i].payload, [*came[:i], *came[i + 1 :]]) for i, one in enumerate(learners)]
        )
    return mixed


def weights_of(mixed, member):
    return {entry.member: entry.weight for entry in mixed[member].inputs}


@pytest.mark.real
@pytest.mark.parametrize("attack", HARMFUL)
async def test_an_attacker_loses_its_weight_and_goes_on_from_the_honest_members_model(attack):
    learners = [learner(member, attack if member == ATTACKER else None) for member in range(MEMBERS)]
    last = (await rounds(learners, 3))[-1]
    honest = [member for member in range(MEMBERS) if member != ATTACKER]
    assert statistics.fmean(weights_of(last, member)[ATTACKER] for member in honest) < WEIGHT_SUM / 100
    assert weights_of(last, ATTACKER)[ATTACKER] == 0
    assert min(mixed.metrics["test_accuracy"] for mixed in last) > 0.97


@pytest.mark.parametrize("attack", KINDS)
async def test_a_node_sends_what_the_simulation_forges_from_the_updates_of_the_round_before(attack):
    attacker, honest = learner(ATTACKER, attack), [learner(member) for member in (0, 1)]
    sent = [await one.train(1) for one in (*honest, attacker)]
    came = [Contribution(member, 1, each.payload) for member, each in enumerate(sent[:2])]
    await attacker.mix(1, sent[2].payload, came)
    own_before, start = attacker.misbehavior.trained, attacker.flat
    payload = (await attacker.train(2)).payload
    known = torch.stack([attacker.decode(each.payload) for each in sent[:2]])
    scene = Scene(
        start=start,
        own=attacker.misbehavior.trained,
        honest=known,
        attackers=1,
        initial=attacker.learner.initial(),
        first=own_before,
        previous=known[0],
        leader=attacker.misbehavior.trained,
        generator=attacker.seat.generator("misbehave", 2),
    )
    assert torch.equal(attacker.decode(payload), forge(attack, scene))


@pytest.mark.parametrize("attack", KINDS)
def test_only_the_training_data_are_poisoned_and_only_by_attacks_on_data(attack):
    honest, attacker = learner(0), learner(0, attack)
    before, after = honest.data.train, attacker.data.train
    same = torch.equal(before.inputs, after.inputs) and torch.equal(before.targets, after.targets)
    assert same is (attack not in POISONS)
    for part in ("validation", "test"):
        assert torch.equal(getattr(honest.data, part).targets, getattr(attacker.data, part).targets)


async def test_an_attacker_whom_nobody_answers_stays_alone():
    alone = learner(0, "copy")
    sent = await alone.train(1)
    assert (await alone.mix(1, sent.payload, [])).inputs[0].weight == WEIGHT_SUM
    assert np.array_equal(without_own(np.array([0.2, 0.8, 0.0]), 1), [0.2, 0.0, 0.0])
    assert np.array_equal(without_own(np.array([0.0, 1.0, 0.0]), 1), [1.0, 0.0, 1.0])


def test_an_unknown_attack_names_those_that_there_are():
    with pytest.raises(ConfigError, match="unknown attack 'magic': choose one of alie, backdoor"):
        require_attack("magic", task)
