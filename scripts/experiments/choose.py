"""How the settings that all cells share are chosen: on data held out of the training set, with other seeds.

The rule must do well on honest and on attacked members alike: what counts is the mean over the cells. Beside the grid,
what the screen's last question (who is far among few?) gives against fixed sharing, on the same data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scripts.experiments.cells import Cell, Place, attack_cell, split_cell
from scripts.experiments.markdown import shown, table
from scripts.experiments.samples import Results

SEEDS = (101, 102, 103)
LEARNING_RATES = (0.02, 0.05, 0.1, 0.2)
PRIORS: Sequence[float | None] = (None, 0.1, 0.3, 1.0)  # None: what the objective wants

WAYS = ("fixed", "learned")
FEW_GRAPHS = ("ring", "regular:4")
FEW_ATTACKS = (None, "alie", "label_flip", "dissensus")  # None: the attackers absent

Choice = tuple[float, float | None]


def grid() -> list[Choice]:
    """Learning rate and strength of the prior."""
    return [(rate, prior) for rate in LEARNING_RATES for prior in PRIORS]


def judged_by(dataset: str) -> dict[str, Cell]:
    """The cells that a choice is judged by, all of the learned row, objective `common`."""
    place = Place(dataset, "dirichlet:0.5")
    return {
        "iid": split_cell(dataset, "iid", "learned"),
        "dirichlet:0.5": split_cell(dataset, "dirichlet:0.5", "learned"),
        "shards:2": split_cell(dataset, "shards:2", "learned"),
        "dirichlet:0.5, label_flip": attack_cell(place, "learned", "label_flip"),
    }


def held_out(cell: Cell, choice: Choice) -> Cell:
    """The cell with a choice, measured on held-out training data."""
    rate, prior = choice
    return replace(cell, held_out=True, learning_rate=rate, prior_strength=prior)


def choice_cells(datasets: Sequence[str]) -> list[Cell]:
    """Every run of the cross-validation, but for the seeds."""
    return [held_out(cell, choice) for choice in grid() for dataset in datasets for cell in judged_by(dataset).values()]


def few_cell(place: Place, sharing: str, attack: str | None) -> Cell:
    """A run of members that ask few others, measured on held-out training data."""
    return replace(attack_cell(place, sharing, attack), held_out=True)


def few_places(datasets: Sequence[str]) -> list[Place]:
    """Where 6 of 20 members attack, or are absent, and data are skewed."""
    return [Place(dataset, "dirichlet:0.5", 20, 6, topology=graph) for dataset in datasets for graph in FEW_GRAPHS]


def few_cells(datasets: Sequence[str]) -> list[Cell]:
    """Every run of `few_table`, but for the seeds."""
    return [
        few_cell(place, sharing, attack) for place in few_places(datasets) for attack in FEW_ATTACKS for sharing in WAYS
    ]


def few_table(results: Results, datasets: Sequence[str]) -> str:
    """Fixed sharing and the rule on sparse graphs, accuracy in %."""
    rows = [
        [
            f"{place.dataset}, {place.graph}",
            attack or "absent",
            *(shown(results.sample(few_cell(place, way, attack), "common_accuracy"), results.seeds) for way in WAYS),
        ]
        for place in few_places(datasets)
        for attack in FEW_ATTACKS
    ]
    return table(["place", "attackers", *WAYS], rows)


def scores(results: Results, datasets: Sequence[str]) -> dict[Choice, float]:
    """Mean accuracy (%) over the cells, of the choices whose cells are all there."""
    found = {}
    for choice in grid():
        samples = [
            results.sample(held_out(cell, choice), "common_accuracy")
            for dataset in datasets
            for cell in judged_by(dataset).values()
        ]
        if all(len(sample) for sample in samples):
            found[choice] = sum(sample.mean for sample in samples) / len(samples)
    return found


def best(scored: Mapping[Choice, float]) -> Choice:
    """The choice with the highest score."""
    return max(scored, key=lambda choice: scored[choice])


def choice_table(results: Results, datasets: Sequence[str]) -> str:
    """Every choice with its cells and its score, the best one named; of the data sets that were run at all."""
    datasets = [dataset for dataset in datasets if scores(results, [dataset])]
    scored = scores(results, datasets) if datasets else {}
    if not scored:
        return "Not run."
    names = [f"{dataset}, {name}" for dataset in datasets for name in judged_by(dataset)]
    rows = []
    for choice, score in scored.items():
        cells = [held_out(cell, choice) for dataset in datasets for cell in judged_by(dataset).values()]
        accuracies = [shown(results.sample(cell, "common_accuracy"), results.seeds) for cell in cells]
        rows.append([said(choice), *accuracies, f"{score:.2f}"])
    incomplete = "" if len(scored) == len(grid()) else f" {len(grid()) - len(scored)} choices were not run."
    return f"{table(['choice', *names, 'mean'], rows)}\n\nThe best: {said(best(scored))}.{incomplete}"


def said(choice: Choice) -> str:
    """A choice for people."""
    rate, prior = choice
    return f"learning rate {rate:g}, λ {'as shipped' if prior is None else f'{prior:g}'}"
