"""Where a node trains: on the CPU, or on a GPU to which the parameters go and from which they come back.

What others check again (weighing, mixing, aggregating) never comes here: it is computed on the CPU, bit for bit.
"""

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.errors import ConfigError
from node.learning.task import Examples, Learner, Rows
from node.learning.trainer import EVALUATION_CHUNK, evaluate

CPU = torch.device("cpu")
NAMES = "auto, cpu, cuda, cuda:N or mps"


@dataclass(frozen=True, slots=True)
class Present:
    """What torch can compute on here, besides the CPU."""

    cuda: int = 0  # GPUs of NVIDIA's or AMD's
    mps: bool = False  # Apple's GPU


def present() -> Present:
    """What there is on this machine."""
    return Present(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available())


def choose(wanted: str, here: Present) -> torch.device:
    """The device that an operator wants; `auto` is the first GPU, or the CPU. ConfigError names what there is not."""
    kind, number = _parsed(wanted)
    if kind == "auto":
        kind, number = ("cuda", 0) if here.cuda else ("mps" if here.mps else "cpu", 0)
    if kind == "mps" and not here.mps:
        raise ConfigError("--device mps: torch finds no GPU of Apple's here: choose --device auto or cpu")
    if kind == "cuda" and not here.cuda:
        raise ConfigError(
            f"--device {wanted}: torch {torch.__version__} finds no GPU here: install its driver and a torch that is "
            "built for it, or choose --device auto or cpu"
        )
    if kind == "cuda" and number >= here.cuda:
        raise ConfigError(f"--device {wanted}: the GPUs here are cuda:0 to cuda:{here.cuda - 1}: choose one of them")
    return torch.device(kind, number) if kind == "cuda" else torch.device(kind)


def _parsed(wanted: str) -> tuple[str, int]:
    found = re.fullmatch(r"(auto|cpu|mps)|cuda(?::(\d{1,3}))?", wanted.strip().lower())
    if found is None:
        raise ConfigError(f"--device {wanted!r} is no device: choose {NAMES}")
    return found[1] or "cuda", int(found[2] or 0)


@dataclass(frozen=True, slots=True)
class Moved:
    """Examples of which each batch goes to a device; the whole stays where it is."""

    examples: Examples
    device: torch.device

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self, indices: Tensor) -> Examples:
        """The examples at these positions, on the device."""
        return placed(self.examples.rows(indices), self.device)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a training takes, on one device. Its result comes back with `.cpu()`, which is nothing on the CPU."""

    learner: Learner
    flat: Tensor
    data: Rows


def bench(device: torch.device, learner: Learner, flat: Tensor, data: Examples) -> Bench:
    """These on a device; themselves on the CPU, where a training in place changes `flat`."""
    if device == CPU:
        return Bench(learner, flat, data)
    return Bench(on_device(learner, device), flat.to(device), Moved(data, device))


def on_device(learner: Learner, device: torch.device) -> Learner:
    """The learner with a module whose fixed numbers (buffers) lie on a device; it has no parameters of its own."""
    hollow = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta"))
        for each in learner.module.parameters()
        if each.requires_grad
    }
    module = copy.deepcopy(learner.module, hollow)
    module._apply(lambda numbers: numbers if numbers.is_meta else numbers.to(device))  # type: ignore[no-untyped-call]
    return Learner(learner.task, module, learner.spec, learner.seed)


def placed(examples: Examples, device: torch.device) -> Examples:
    """The examples on a device."""
    return Examples(examples.inputs.to(device), examples.targets.to(device))


def measure(device: torch.device, learner: Learner, flat: Tensor, data: Examples) -> dict[str, float]:
    """What `evaluate` says, computed on a device, to which a part of the examples goes at a time."""
    if device == CPU:
        return evaluate(learner, flat, data)
    learner, flat = on_device(learner, device), flat.to(device)
    totals: dict[str, float] = {}
    for start in range(0, len(data), EVALUATION_CHUNK):
        part = slice(start, start + EVALUATION_CHUNK)
        examples = placed(Examples(data.inputs[part], data.targets[part]), device)
        for name, value in evaluate(learner, flat, examples).items():
            totals[name] = totals.get(name, 0.0) + value * len(examples)
    return {name: total / len(data) for name, total in totals.items()}
