"""A small task whose steps take their time, so that eight nodes fit on one busy core and a round on a few seconds."""

import select

import torch
from torch import nn

from node.learning.task import LocalSplit, Share, Task
from tests.learning.example_task import SENSORS, measured

STEP_S, BATCH = 0.1, 20


def model() -> nn.Module:
    return nn.Linear(SENSORS, 1)


def data(share: Share) -> LocalSplit:
    generator = torch.Generator().manual_seed(1000 * share.seed + share.index)
    return LocalSplit(measured(200, generator), measured(50, generator), measured(50, generator))


def calm_loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if len(targets) == BATCH:  # not where updates are weighed: who is behind must be able to catch up
        select.select([], [], [], STEP_S)  # libfaketime trips over time.sleep
    return nn.functional.mse_loss(predicted, targets)


task = Task(name="calm-pipe-flow", model=model, data=data, loss=calm_loss, learning_rate=0.05, batch_size=BATCH)
