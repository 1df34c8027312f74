from pathlib import Path

import pytest
import torch

from node.errors import ConfigError
from node.learning.baselines import BASELINES
from node.learning.task import Examples, LocalSplit
from node.simulation.attacks import ATTACKS, FORGERIES, POISONS, Scene, forge, poison
from node.simulation.run import simulate
from node.simulation.settings import SimulationSettings

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"


def last(**options):
    return list(simulate(SimulationSettings(task=TASK, **{"members": 6, "rounds": 6, **options})))[-1]


def worst(finished):
    return max(metrics["loss"] for metrics in finished.metrics)


HARMFUL = ["sign_flip", "gaussian", "ipm", "constant"]


@pytest.mark.real
@pytest.mark.parametrize("attack", HARMFUL)
def test_learned_trust_withstands_what_ruins_equal_weights(attack):
    learned = last(attack=attack, attackers=2)
    assert worst(learned) < 0.02  # the best possible is 0.01
    assert learned.attacker_weight < 0.01
    assert worst(last(attack=attack, attackers=2, sharing="fixed")) > 0.03


@pytest.mark.parametrize("attack", sorted(FORGERIES.keys() - set(POISONS)))
def test_every_forgery_runs_and_is_the_same_twice(attack):
    first, again = (last(attack=attack, attackers=1, rounds=2, members=4) for _ in range(2))
    assert first == again
    assert len(first.metrics) == 3


@pytest.mark.parametrize("sharing", sorted(BASELINES))
def test_every_baseline_trains(sharing):
    finished = last(sharing=sharing)
    assert worst(finished) < 0.03
    assert finished.rows == ({},) * 6


def test_the_reference_run_leaves_the_attackers_out():
    finished = last(attack="sign_flip", attackers=2, attackers_absent=True, sharing="fixed")
    assert finished.attacker_weight == 0
    assert worst(finished) < 0.02


def test_poisoned_labels_and_stamped_images():
    images = torch.zeros(4, 1, 8, 8)
    images[3, 0, 7, 7] = 2.0
    split = LocalSplit(*[Examples(images, torch.tensor([0, 1, 2, 3]))] * 3)
    assert poison("label_flip", split, 4).train.targets.tolist() == [3, 2, 1, 0]
    assert poison("one_class", split, 4).train.targets.tolist() == [0, 0, 0, 0]
    assert torch.equal(poison("boosted_backdoor", split, 4).train.inputs, poison("backdoor", split, 4).train.inputs)
    stamped = poison("backdoor", split, 4).train
    assert stamped.targets.tolist() == [0, 1, 0, 3]
    assert float(stamped.inputs[0, 0, :4, :4].min()) == 2.0
    assert poison("backdoor", split, 4).validation.targets.tolist() == [0, 1, 2, 3]


def test_a_backdoor_needs_images():
    split = LocalSplit(*[Examples(torch.zeros(4, 6), torch.tensor([0, 1, 2, 3]))] * 3)
    with pytest.raises(ConfigError, match=r"needs images: the task's inputs have the shape \(6,\)"):
        poison("backdoor", split, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "magic", "attackers": 1}, "unknown attack 'magic'"),
        ({"attack": "label_flip", "attackers": 1}, "needs a task with classes"),
        ({"attack": "ipm", "attackers": 6}, "leave at least one honest"),
        ({"attackers": 1}, "without an attack"),
    ],
)
def test_settings_that_can_not_be_are_clear_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        last(**options)


def test_the_issues_attacks_are_all_there():
    assert set(ATTACKS) == {
        *("sign_flip", "gaussian", "label_flip", "ipm", "alie", "dissensus", "constant", "stale", "copy", "backdoor"),
        "collusion",
    }


def scene(**changes):
    """Two attackers among three honest members, one of which is remote; numbers for telling one thing from another."""
    values = {
        "start": torch.full((1000,), 5.0),
        "own": torch.full((1000,), 7.0),
        "honest": torch.tensor([[1.0], [2.0], [6.0]]).expand(3, 1000),
        "attackers": 2,
        "initial": torch.full((1000,), 11.0),
        "first": torch.full((1000,), 12.0),
        "previous": torch.full((1000,), 13.0),
        "leader": torch.full((1000,), 14.0),
        "generator": torch.Generator().manual_seed(0),
    }
    return Scene(**{**values, **changes})


@pytest.mark.parametrize(
    ("attack", "centre", "noise"),
    [
        ("sign_flip", -35.0, 0.1),  # −5 times its own
        ("gaussian", 7.0, 1.0),
        ("ipm", -1.5, 0.0),  # −0.5 times the honest mean
        ("alie", 3.0 - 1.5 * (14 / 3) ** 0.5, 0.0),  # 1.5 deviations below the mean
        ("dissensus", 6.0 - (1.5 - 6.0), 0.01),  # the remote one, pushed from the others by all their weight over ours
        ("constant", 11.0, 0.0),
        ("stale", 12.0, 0.0),
        ("copy", 13.0, 0.0),
        ("collusion", 14.0, 0.0),
        ("noisy_copy", 13.0, 0.05 * 4.0),  # honest updates are 1, 4 and 5 apart in each number
        ("step_flip", 5.0 - 5 * 2.0, 2.0),  # its step was 2 in each number
        ("boosted_backdoor", 5.0 + 5 * 2.0, 0.0),
        ("one_class", 3.0 + 5 * 2.0, 0.0),
        ("label_flip", 7.0, 0.0),
        ("backdoor", 7.0, 0.0),
    ],
)
def test_every_attack_sends_what_its_definition_says(attack, centre, noise):
    sent = forge(attack, scene())
    assert float(sent.mean()) == pytest.approx(centre, abs=1e-5 + noise / 5)
    assert float(sent.std()) == pytest.approx(noise, rel=0.1, abs=1e-5)


def test_a_backdoors_trigger_is_on_every_second_image_and_only_there():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    split = LocalSplit(*[Examples(images.clone(), torch.arange(6))] * 3)
    train = poison("backdoor", split, 6).train
    assert torch.equal(train.inputs[1::2], images[1::2])
    assert torch.equal(train.inputs[..., 4:, :], images[..., 4:, :])
    assert bool((train.inputs[::2, :, :4, :4] == images.max()).all())
