"""A member of flower_simulation.py: a module, so that Flower's processes import it and keep its data."""

from functools import lru_cache

import numpy as np
import torch
from flwr.client import NumPyClient
from torch import nn


@lru_cache(maxsize=1)
def shares(path):
    torch.set_num_threads(1)
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


class Client(NumPyClient):
    def __init__(self, member, path, settings):
        self.settings, data = settings, shares(path)
        self.inputs, self.targets = data[f"inputs{member}"], data[f"targets{member}"]
        self.test_inputs, self.test_targets = data["test_inputs"], data["test_targets"]
        self.model = nn.Linear(self.inputs.shape[1], 10)

    def _take(self, parameters):
        with torch.no_grad():
            for own, given in zip(self.model.parameters(), parameters, strict=True):
                own.copy_(torch.from_numpy(given))

    def fit(self, parameters, config):  # noqa: ARG002, D102
        self._take(parameters)
        size = self.settings["batch_size"]
        order = torch.randperm(len(self.inputs))
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.settings["learning_rate"])
        for step in range(self.settings["steps"]):
            rows = order[step * size : (step + 1) * size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.inputs[rows]), self.targets[rows]).backward()
            optimizer.step()
        return [own.detach().numpy() for own in self.model.parameters()], len(self.inputs), {}

    @torch.no_grad()
    def evaluate(self, parameters, config):  # noqa: ARG002, D102
        self._take(parameters)
        predicted = self.model(self.test_inputs)
        loss = float(nn.functional.cross_entropy(predicted, self.test_targets))
        accuracy = float((predicted.argmax(dim=1) == self.test_targets).float().mean())
        return loss, len(self.test_targets), {"accuracy": accuracy}
