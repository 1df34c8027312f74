"""Every run of the experiments, as data: a cell is the settings of its first seed. Knows no results and no bars."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from node.simulation.attacks import ATTACKS, VARIANTS
from node.simulation.settings import SimulationSettings

Cell = SimulationSettings  # its seed is the first one; `seeded` gives them all

SEEDS = (1, 2, 3, 4, 5)  # what is reported; hyper-parameters were chosen with seeds from 101, on held-out training data
DATASETS = ("mnist", "fashion")
SPLITS = ("iid", "unbalanced", "dirichlet:0.5", "dirichlet:0.1", "shards:2")
REFERENCE_SPLITS = ("iid", "skewed:0.5", "unbalanced")  # of row P11
ATTACKED_SPLITS = ("iid", "dirichlet:0.5")
SHARING = ("none", "fixed", "learned")
BASELINES = (
    "data_size",
    "metropolis",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "clipping",
    "fedfomo",
    "l2c",
)
ABSENT = "backdoor"  # absent members attack nobody; by this name the backdoor's rate is measured without them too
# In the order in which they are run.
ROWS = ("1", "2", "3", "4", "5", "personal", "variants", "plots", "6", "7", "7-graphs")

# One setting for all cells: rounds, learning rate, batch size and prior are never chosen per cell.
SHARED = SimulationSettings(members=6, rounds=20, seed=SEEDS[0])


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attack happens: the data, how many members, and who asks whom."""

    dataset: str
    split: str
    members: int = SHARED.members
    attackers: int = 2
    cohort: int | None = None
    topology: str = "random"

    @property
    def graph(self) -> str:
        """The graph's name in a table."""
        return self.topology if self.cohort is None else f"random cohorts of {self.cohort}"


def seeded(cells: Iterable[Cell], seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """Every cell with every seed, all cells of a seed before the next: an unfinished sweep has something of each."""
    cells = list(dict.fromkeys(cells))
    return [replace(cell, seed=seed) for seed in seeds for cell in cells]


def split_cell(dataset: str, split: str, sharing: str, objective: str = "common") -> Cell:
    """Honest members only. The objective is that of the learned row; the other rules have none."""
    objective = objective if sharing == "learned" else "common"
    return replace(SHARED, task=f"{dataset}-softmax", split=split, sharing=sharing, objective=objective)


def attack_cell(place: Place, sharing: str, attack: str | None, objective: str = "common") -> Cell:
    """A run under attack; without an attack the same run with the attackers absent."""
    return replace(
        split_cell(place.dataset, place.split, sharing, objective),
        members=place.members,
        cohort=place.cohort,
        topology=place.topology,
        attackers=place.attackers,
        attack=attack or ABSENT,
        attackers_absent=attack is None,
    )


def central_cell(dataset: str) -> Cell:
    """Centralised training, the reference: one member with everybody's data."""
    return replace(split_cell(dataset, "iid", "none"), members=1)


def places(dataset: str) -> list[Place]:
    """Rows 4 and 5."""
    return [Place(dataset, split) for split in ATTACKED_SPLITS]


def graph_places(dataset: str) -> list[Place]:
    """Row 6: 6 of 20 members attack."""
    graphs = ({"cohort": 5}, {"topology": "ring"}, {"topology": "regular:4"})
    return [Place(dataset, split, 20, 6, **graph) for graph in graphs for split in ATTACKED_SPLITS]


def variant_places(dataset: str) -> list[Place]:
    """Rows 4 and 5, and the sparse graphs with skewed data, where the screen's last question can be abused."""
    sparse = [place for place in graph_places(dataset) if place.cohort is None and place.split != "iid"]
    return [*places(dataset), *sparse]


def row_cells(row: str, dataset: str) -> list[Cell]:
    """The cells that a row of the table needs for one data set."""
    match row:
        case "1":
            references = [split_cell(dataset, split, sharing) for split in REFERENCE_SPLITS for sharing in SHARING]
            return [*references, central_cell(dataset)]
        case "2":
            return [split_cell(dataset, split, sharing) for split in SPLITS for sharing in SHARING]
        case "3":
            return [split_cell(dataset, split, sharing, "personal") for split in SPLITS for sharing in SHARING]
        case "4" | "5" | "6":
            return attack_cells((graph_places if row == "6" else places)(dataset), ("learned", "fixed"))
        case "personal":
            return attack_cells(places(dataset), ("learned",), objective="personal")
        case "variants":
            return attack_cells(variant_places(dataset), ("learned", "fixed"), absent=False, attacks=VARIANTS)
        case "7":
            unattacked = [split_cell(dataset, split, sharing) for split in SPLITS for sharing in BASELINES]
            return [*unattacked, *attack_cells(places(dataset), BASELINES, absent=False)]
        case "7-graphs":
            return attack_cells(graph_places(dataset), BASELINES, absent=False)
        case "plots":
            return plot_cells() if dataset == DATASETS[0] else []
    raise ValueError(f"unknown row {row!r}: choose one of {', '.join(ROWS)}")


def attack_cells(
    where: Iterable[Place],
    ways: Sequence[str],
    absent: bool = True,
    attacks: Sequence[str] = ATTACKS,
    objective: str = "common",
) -> list[Cell]:
    """Every attack in every place under every way of sharing, and the runs with the attackers absent."""
    chosen: list[str | None] = [*([None] if absent else []), *attacks]
    return [attack_cell(place, way, attack, objective) for place in where for attack in chosen for way in ways]


MEMBER_COUNTS = (2, 4, 8, 16, 32, 64)
ASKED = 5  # peers that a member of a large session asks in a round
CODECS = ("float32", "bfloat16", "int8", "topk:0.5", "topk:0.2", "topk:0.05", "topk:0.01")
COHORTS = (1, 2, 3, 5)
PLOT_SPLIT = "dirichlet:0.5"
PLOT_ATTACKS = ("sign_flip", "label_flip")
PLOT_RULES = ("learned", "fixed", "median", "multi_krum", "geometric_median")
PLOT_MEMBERS = 10
PLOT_ATTACKERS = (0, 1, 2, 3, 4, 5)
PLOT_SEEDS = SEEDS[:3]


def members_cell(members: int, sharing: str) -> Cell:
    """So many members; in a large session each asks 5 others in a round."""
    cohort = ASKED if members > ASKED + 1 else None
    return replace(split_cell(DATASETS[0], PLOT_SPLIT, sharing), members=members, cohort=cohort)


def bytes_cell(codec: str, cohort: int | None) -> Cell:
    """Updates encoded so, from so many peers (None: from everybody)."""
    asked = None if cohort == SHARED.members - 1 else cohort
    return replace(split_cell(DATASETS[0], PLOT_SPLIT, "learned"), codec=codec, cohort=asked)


def attackers_cell(attack: str, attackers: int, sharing: str) -> Cell:
    """So many of 10 members attack."""
    start = replace(split_cell(DATASETS[0], PLOT_SPLIT, sharing), members=PLOT_MEMBERS)
    return replace(start, attack=attack, attackers=attackers) if attackers else start


def plot_cells() -> list[Cell]:
    """What the line plots need beside the table's own cells."""
    return [
        *(members_cell(members, sharing) for members in MEMBER_COUNTS for sharing in SHARING),
        *(bytes_cell(codec, None) for codec in CODECS),
        *(bytes_cell(codec, cohort) for codec in ("float32", "int8") for cohort in COHORTS),
        *(
            attackers_cell(attack, count, sharing)
            for attack in PLOT_ATTACKS
            for count in PLOT_ATTACKERS
            for sharing in PLOT_RULES
        ),
    ]


def all_runs(rows: Sequence[str], datasets: Sequence[str], seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """Every run of these rows, the most important first, none twice."""
    runs: dict[Cell, None] = {}
    for cells, its_seeds in _groups(rows, datasets, seeds):
        runs.update(dict.fromkeys(seeded(cells, its_seeds)))
    return list(runs)


def _groups(
    rows: Sequence[str], datasets: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[list[Cell], Sequence[int]]]:
    """Rows 1 to 5 of MNIST, then of Fashion-MNIST; then the others, row by row."""
    chosen = [row for row in ROWS if row in rows]
    for dataset in datasets:
        yield [cell for row in chosen if row in "12345" for cell in row_cells(row, dataset)], seeds
    for row in (row for row in chosen if row not in "12345"):
        for dataset in datasets:
            yield row_cells(row, dataset), [seed for seed in seeds if row != "plots" or seed in PLOT_SEEDS]
