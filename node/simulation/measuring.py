"""What is measured of virtual members after a round, all at once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from node.learning.losses import mappable
from node.learning.many import Evaluator
from node.learning.mapped import over_members
from node.learning.task import Examples, Learner, LocalSplit
from node.simulation.attacks import BACKDOOR_CLASS, BACKDOORS, stamp
from node.simulation.settings import SimulationSettings


class Measure:
    """Metrics per member on the held-out test set, and with classes the accuracy on its own distribution of them."""

    def __init__(
        self, learner: Learner, settings: SimulationSettings, splits: Sequence[LocalSplit], evaluator: Evaluator
    ) -> None:
        self.task, self.evaluator = learner.task, evaluator
        self.losses = over_members(mappable(learner.task.loss), (0, None))
        self.tests = [split.test for split in splits]
        self.own: list[Tensor] = []
        self.stamped: Examples | None = None
        classes = self.task.classes
        if classes is not None:
            for split in splits:
                counts = torch.bincount(split.train.targets, minlength=classes).double()
                self.own.append(counts / counts.sum())
        if settings.attack in BACKDOORS and settings.attackers:
            victims = self.tests[0].rows((self.tests[0].targets != BACKDOOR_CLASS).nonzero().squeeze(1))
            self.stamped = Examples(stamp(victims.inputs), victims.targets)

    def __call__(self, flats: Tensor, members: Sequence[int]) -> tuple[Mapping[str, float], ...]:
        """Metrics of the parameters (members, size) of these members."""
        metrics: list[dict[str, float]] = []
        for first, last in _runs_of_the_same([self.tests[member] for member in members]):
            metrics += self._measured(flats[first:last], members[first:last], self.tests[members[first]])
        if self.stamped is not None:
            hits = torch.zeros(len(flats))
            for rows, _, predicted in self.evaluator.outputs(flats, self.stamped):
                hits[rows] += (predicted.max(dim=-1).indices == BACKDOOR_CLASS).float().sum(dim=1)
            for entry, hit in zip(metrics, hits.tolist(), strict=True):
                entry["backdoor"] = hit / max(1, len(self.stamped))
        return tuple(metrics)

    def _measured(self, flats: Tensor, members: Sequence[int], test: Examples) -> list[dict[str, float]]:
        classes = self.task.classes
        measures = {name: of for name, of in self.task.metrics.items() if classes is None or name != "accuracy"}
        totals = [dict.fromkeys(("loss", *measures), 0.0) for _ in members]
        hits = torch.zeros(len(flats), classes or 1, dtype=torch.double)
        for rows, part, predicted in self.evaluator.outputs(flats, test):
            targets = test.targets[part]
            share, losses = len(targets) / len(test), self.losses(predicted, targets).tolist()
            for total, outputs, loss in zip(totals[rows], predicted, losses, strict=True):
                total["loss"] += loss * share
                for name, measure in measures.items():
                    total[name] += float(measure(outputs, targets)) * share
            if classes is not None:
                found = (predicted.max(dim=-1).indices == targets).double()  # faster than argmax
                hits[rows] += found @ torch.nn.functional.one_hot(targets, classes).double()
        if classes is not None:
            counts = torch.bincount(test.targets, minlength=classes)
            for total, member, hit in zip(totals, members, hits, strict=True):
                total["accuracy"] = float(hit.sum() / len(test))
                total["own_accuracy"] = float(hit / counts.clamp(min=1) @ self.own[member])
        return totals


def _runs_of_the_same(tests: Sequence[Examples]) -> list[tuple[int, int]]:
    """Runs [first, last) of neighbouring members with the same test set."""
    bounds = [0]
    for i in range(1, len(tests)):
        if tests[i].inputs is not tests[i - 1].inputs and not torch.equal(tests[i].inputs, tests[i - 1].inputs):
            bounds.append(i)
    return list(zip(bounds, [*bounds[1:], len(tests)], strict=True))
