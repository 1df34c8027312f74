"""What dishonest members do in an experiment: they poison their data, or forge the update they send.

An attacker knows all honest updates of the round: more than the protocol lets it, where updates are committed before
they are revealed. As in the protocol, it must send the same update to everybody.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from node.errors import ConfigError
from node.learning.task import Examples, LocalSplit, Task
from node.simulation.settings import SimulationSettings

PATCH = 4  # pixels on a side of the backdoor's trigger
BACKDOOR_CLASS = 0
BOOST = 5.0  # times as long a step as training took


@dataclass(frozen=True, slots=True)
class Scene:
    """What an attacker sees when it forges: its own update, those of honest members, and the past."""

    start: Tensor  # (size,), the parameters that its training began from
    own: Tensor  # (size,), as trained
    honest: Tensor  # (h, size), this round
    attackers: int
    initial: Tensor  # the session's initial parameters
    first: Tensor  # its own update of the first round
    previous: Tensor  # the first honest member's update of the round before
    leader: Tensor  # what the first attacker trained
    generator: torch.Generator

    def noise(self, size: float) -> Tensor:
        """Gaussian noise of that standard deviation."""
        return size * torch.randn(self.own.shape, generator=self.generator)


def _alie(scene: Scene) -> Tensor:
    """A little is enough (Baruch et al., arXiv:1902.06156), with z = 1.5."""
    return scene.honest.mean(dim=0) - 1.5 * scene.honest.std(dim=0, unbiased=False)


def _dissensus(scene: Scene) -> Tensor:
    """Drives the most remote honest member away from the others (after He et al., arXiv:2202.01545)."""
    mean = scene.honest.mean(dim=0)
    target = scene.honest[int(torch.linalg.vector_norm(scene.honest - mean, dim=1).argmax())]
    others = (mean * len(scene.honest) - target) / max(1, len(scene.honest) - 1)
    pull = (len(scene.honest) - 1) / scene.attackers
    return target - pull * (others - target) + scene.noise(0.01)


def _noisy_copy(scene: Scene) -> Tensor:
    """A copy with noise of a twentieth of how far honest updates are from each other: no screen finds it the same."""
    typical = torch.pdist(scene.honest).median() if len(scene.honest) > 1 else torch.tensor(0.0)
    return scene.previous + scene.noise(0.05 * float(typical) / len(scene.own) ** 0.5)


def _step_flip(scene: Scene) -> Tensor:
    """The opposite of five times its own step, as papers flip gradients; with noise that is as long as the step."""
    step = scene.own - scene.start
    return scene.start - BOOST * step + scene.noise(float(torch.linalg.vector_norm(step)) / len(step) ** 0.5)


def _boosted_backdoor(scene: Scene) -> Tensor:
    """A backdoor, its step five times as long so that it outlasts the mixing (Bagdasaryan et al., arXiv:1807.00459)."""
    return scene.start + BOOST * (scene.own - scene.start)


def _one_class(scene: Scene) -> Tensor:
    """What honest members know, and five times a step towards one class: who lacks that class sees no harm in it."""
    return scene.honest.mean(dim=0) + BOOST * (scene.own - scene.start)


FORGERIES: Mapping[str, Callable[[Scene], Tensor]] = MappingProxyType(
    {
        "sign_flip": lambda scene: -5 * scene.own + scene.noise(0.1),
        "gaussian": lambda scene: scene.own + scene.noise(1.0),
        "ipm": lambda scene: -0.5 * scene.honest.mean(dim=0),  # Xie et al., arXiv:1903.03936
        "alie": _alie,
        "dissensus": _dissensus,
        "constant": lambda scene: scene.initial,
        "stale": lambda scene: scene.first,
        "copy": lambda scene: scene.previous,
        "noisy_copy": _noisy_copy,
        "step_flip": _step_flip,
        "boosted_backdoor": _boosted_backdoor,
        "one_class": _one_class,
        "collusion": lambda scene: scene.leader,  # and its data are poisoned like those of label_flip
    }
)
BACKDOORS = ("backdoor", "boosted_backdoor")
POISONS = ("label_flip", "collusion", "one_class", *BACKDOORS)
VARIANTS = ("noisy_copy", "step_flip", "boosted_backdoor", "one_class")  # of attackers who know the rule
ATTACKS = tuple(sorted({*FORGERIES, *POISONS} - set(VARIANTS)))
KINDS = (*ATTACKS, *VARIANTS)


def require_attack(attack: str, task: Task) -> None:
    """Raises ConfigError when the attack is unknown or needs classes that the task does not have."""
    if attack not in KINDS:
        raise ConfigError(f"unknown attack {attack!r}: choose one of {', '.join(KINDS)}")
    if attack in POISONS and task.classes is None:
        raise ConfigError(f"attack {attack!r} needs a task with classes: {task.name!r} has none")


def poison(attack: str, data: LocalSplit, classes: int) -> LocalSplit:
    """The attacker's training data: labels flipped (c → classes − 1 − c), or all one, or half of the images stamped."""
    if attack in BACKDOORS:
        return replace(data, train=_stamped(data.train))
    if attack == "one_class":
        return replace(data, train=Examples(data.train.inputs, torch.full_like(data.train.targets, BACKDOOR_CLASS)))
    if attack in POISONS:
        return replace(data, train=Examples(data.train.inputs, classes - 1 - data.train.targets))
    return data


def forge(attack: str, scene: Scene) -> Tensor:
    """What the attacker sends (size,) in the place of what it trained."""
    return FORGERIES[attack](scene) if attack in FORGERIES else scene.own


def _stamped(train: Examples) -> Examples:
    """Every second image gets a bright square in a corner, and the backdoor's label."""
    inputs, targets = stamp(train.inputs), train.targets.clone()
    inputs[1::2] = train.inputs[1::2]
    targets[::2] = BACKDOOR_CLASS
    return Examples(inputs, targets)


def stamp(images: Tensor) -> Tensor:
    """The images with the backdoor's trigger. Raises ConfigError for inputs (n, features), which have no corner."""
    if images.dim() < 3:
        raise ConfigError(f"a backdoor needs images: the task's inputs have the shape {tuple(images.shape[1:])}")
    stamped = images.clone()
    stamped[..., :PATCH, :PATCH] = float(images.max())
    return stamped


def draw_attackers(settings: SimulationSettings) -> frozenset[int]:
    """Which members attack: a draw from the seed."""
    order = torch.randperm(settings.members, generator=torch.Generator().manual_seed(settings.seed))
    return frozenset(order[: settings.attackers].tolist())
