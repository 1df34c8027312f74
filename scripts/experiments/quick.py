"""The quick form: a few cells on one seed, cut short, that touch every table and every plot. For CI; proves nothing."""

from dataclasses import replace

from scripts.experiments.cells import (
    PLOT_SPLIT,
    Cell,
    Place,
    attack_cell,
    attackers_cell,
    bytes_cell,
    central_cell,
    graph_places,
    members_cell,
    seeded,
    split_cell,
)

DATASETS = ("mnist",)
SEEDS = (1,)
ROUNDS = 2
BATCH_SIZE = 1024


def shortened(cell: Cell) -> Cell:
    """The cell with few rounds of few steps; row 6 with 8 members instead of 20."""
    if (cell.members, cell.attackers) == (20, 6):
        cell = replace(cell, members=8, attackers=2)
    return replace(cell, rounds=ROUNDS, batch_size=BATCH_SIZE)


def runs() -> list[Cell]:
    """A few of every row's cells."""
    [dataset] = DATASETS
    place, ring = Place(dataset, PLOT_SPLIT), graph_places(dataset)[3]
    cells = [
        *(split_cell(dataset, PLOT_SPLIT, way) for way in ("none", "fixed", "learned", "median")),
        *(split_cell(dataset, "iid", way) for way in ("none", "fixed", "learned")),
        split_cell(dataset, PLOT_SPLIT, "learned", "personal"),
        central_cell(dataset),
        *(attack_cell(place, way, attack) for way in ("fixed", "learned") for attack in (None, "label_flip")),
        *(attack_cell(ring, "learned", attack) for attack in (None, "label_flip")),
        *(members_cell(2, way) for way in ("fixed", "learned")),
        bytes_cell("int8", None),
        *(attackers_cell("label_flip", count, "learned") for count in (0, 3)),
    ]
    return seeded([shortened(cell) for cell in cells], SEEDS)
