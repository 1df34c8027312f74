"""The small task with a model of 271 KB, one update of which takes a link of 1 Mbit/s over two seconds."""

from dataclasses import replace

from torch import nn

from tests.faults.calm_task import task as calm
from tests.learning.example_task import SENSORS

WIDTH = 256


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(SENSORS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


task = replace(calm, name="heavy-pipe-flow", model=model, learning_rate=0.01)
