"""Single runs looked at closely: trust rows by round, and each member's predictions at the end. Kept as JSON files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node.learning.metrics import classification_metrics
from node.learning.task import Share, prepare
from node.learning.task_files import load_task
from node.learning.trainer import predict
from node.messages import WEIGHT_SUM
from node.simulation.results import key
from node.simulation.run import simulate
from node.simulation.settings import SimulatedRound, SimulationSettings
from scripts.experiments.cells import DATASETS, Cell, Place, attack_cell, split_cell

PLACE = Place(DATASETS[0], "dirichlet:0.5")
PORTRAITS: Mapping[str, Cell] = {
    "label_flip": attack_cell(PLACE, "learned", "label_flip"),
    "personal": split_cell(DATASETS[0], "shards:2", "learned", "personal"),
}


@dataclass(frozen=True, slots=True)
class Portrait:
    """A run seen closely. `trust` by round: a row per honest member, a column per member, fractions.

    `members`: by honest member, accuracy, precision, recall and F1 (macro) on the common test set, and own_accuracy;
    `confusions[member][true][predicted]` counts.
    """

    honest: list[int]
    trust: dict[int, list[list[float]]]
    members: list[dict[str, float]]
    confusions: list[list[list[int]]]


def draw(settings: SimulationSettings) -> Portrait:
    """Runs a simulation and looks at it."""
    rounds = list(simulate(settings))
    last = rounds[-1]
    learner = prepare(load_task(settings.task), settings.seed)
    test = learner.task.data(Share(settings.data_dir, 0, settings.members, settings.split, settings.seed)).test
    assert learner.task.classes is not None
    seen = [
        classification_metrics(predict(learner, flat, test.inputs), test.targets, learner.task.classes)
        for flat in last.flats
    ]
    return Portrait(
        honest=list(last.members),
        trust={finished.round: trust_matrix(finished, settings.members) for finished in rounds},
        members=[
            {
                "accuracy": metrics.accuracy,
                "precision": metrics.precision,
                "recall": metrics.recall,
                "f1": metrics.f1,
                "own_accuracy": known["own_accuracy"],
            }
            for metrics, known in zip(seen, last.metrics, strict=True)
        ],
        confusions=[metrics.confusion.tolist() for metrics in seen],
    )


def trust_matrix(finished: SimulatedRound, members: int) -> list[list[float]]:
    """A row per honest member, a column per member."""
    return [[row.get(peer, 0) / WEIGHT_SUM for peer in range(members)] for row in finished.rows]


def draw_missing(folder: Path, data_dir: Path | None, adapt: Callable[[Cell], Cell]) -> None:
    """Draws every portrait that is not in the folder yet, or is there of other settings."""
    for name, cell in PORTRAITS.items():
        settings = replace(adapt(cell), data_dir=data_dir)
        if read(folder, name, adapt) is None:
            fields: dict[str, Any] = {"key": key(settings), **vars_of(draw(settings))}
            path = folder / f"{name}.json"
            path.with_suffix(".part").write_text(json.dumps(fields))
            path.with_suffix(".part").replace(path)


def read(folder: Path, name: str, adapt: Callable[[Cell], Cell]) -> Portrait | None:
    """A portrait that was drawn before; None if there is none of these settings."""
    try:
        fields = json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    if fields.pop("key") != key(adapt(PORTRAITS[name])):
        return None
    fields["trust"] = {int(round): matrix for round, matrix in fields["trust"].items()}
    return Portrait(**fields)


def vars_of(portrait: Portrait) -> dict[str, Any]:
    """The fields, for JSON."""
    return {name: getattr(portrait, name) for name in Portrait.__slots__}
