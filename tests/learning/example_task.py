"""A task of one's own that is not image data: the flow of water through a pipe network, from six sensors.

    fl-node session create --task example_task.py:task ...

The data are made here, from a known rule, so the best possible loss is known too: `NOISE ** 2`. In a real task `data`
reads this member's own files and need not look at the share at all.
"""

import torch
from torch import nn

from node.learning.task import Examples, LocalSplit, Share, Task

SENSORS = 6
NOISE = 0.1
TRUE_WEIGHTS = torch.tensor([1.5, -2.0, 0.5, 3.0, 0.0, -1.0])
TRUE_BIAS = 0.7


def model() -> nn.Module:
    return nn.Linear(SENSORS, 1)


def data(share: Share) -> LocalSplit:
    generator = torch.Generator().manual_seed(1000 * share.seed + share.index)
    return LocalSplit(measured(400, generator), measured(100, generator), measured(200, generator))


def measured(count: int, generator: torch.Generator) -> Examples:
    sensors = torch.randn(count, SENSORS, generator=generator)
    flow = sensors @ TRUE_WEIGHTS + TRUE_BIAS + NOISE * torch.randn(count, generator=generator)
    return Examples(sensors, flow.unsqueeze(1))


def mean_absolute_error(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (predicted - targets).abs().mean()


task = Task(
    name="pipe-flow",
    model=model,
    data=data,
    loss=nn.functional.mse_loss,
    metrics={"mean_absolute_error": mean_absolute_error},
    learning_rate=0.05,
    batch_size=20,
)
