"""The `fl-node simulate` command of every cell: what a reader types to make it again."""

from collections.abc import Sequence

from node.simulation.attacks import ATTACKS, VARIANTS
from node.simulation.settings import SimulationSettings
from scripts.experiments.cells import (
    SEEDS,
    Cell,
    attack_cell,
    central_cell,
    graph_places,
    places,
    split_cell,
)

ALWAYS = ("split", "members", "sharing", "objective", "rounds")
SHOWN = (
    "split",
    "members",
    "cohort",
    "topology",
    "sharing",
    "objective",
    "attack",
    "attackers",
    "attackers_absent",
    "codec",
    "rounds",
    "batch_size",
    "local_epochs",
    "learning_rate",
    "prior_strength",
    "held_out",
)


def command(cell: Cell, seeds: Sequence[int] = ()) -> str:
    """The command that makes a run of a cell, or all of it when the seeds are given."""
    default = SimulationSettings()
    dataset, _, model = cell.task.rpartition("-")
    parts = ["fl-node simulate", f"--dataset {dataset} --model {model}"]
    for name in SHOWN:
        value = getattr(cell, name)
        if value != getattr(default, name) or name in ALWAYS:
            parts.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join([*parts, *(f"--seed {seed}" for seed in seeds or (cell.seed,)), "--json"])


def commands(cells: Sequence[Cell]) -> str:
    """The command that makes each of these cells."""
    return "\n".join(["```sh", *(command(cell, SEEDS) for cell in cells), "```"])


def row_commands(dataset: str) -> dict[str, str]:
    """For each part of the document: the command that makes a cell of its tables."""
    attacked = attack_cell(places(dataset)[0], "learned", ATTACKS[0])
    graphs = {(place.cohort, place.topology): place for place in graph_places(dataset)}.values()
    return {
        "splits": commands([split_cell(dataset, "iid", "learned")]),
        "centralised": commands([central_cell(dataset)]),
        "personal": commands([split_cell(dataset, "iid", "learned", "personal")]),
        "attacks": commands([attacked, attack_cell(places(dataset)[0], "learned", None)]),
        "personal_attacks": commands([attack_cell(places(dataset)[0], "learned", ATTACKS[0], "personal")]),
        "variants": commands([attack_cell(places(dataset)[0], "learned", attack) for attack in VARIANTS]),
        "graphs": commands([attack_cell(place, "learned", ATTACKS[0]) for place in graphs]),
    }
