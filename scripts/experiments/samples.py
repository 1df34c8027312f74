"""What the finished runs of a cell say: one number per seed. Knows no bars; a run that is not there has no number."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from node.simulation.results import key
from scripts.experiments.cells import SEEDS, Cell

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A number by seed, in percent or in points."""

    values: Mapping[int, float]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """Of the seeds that there are; there must be one."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float:
        """The sample's standard deviation over the seeds; 0 of one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else 0.0

    def __sub__(self, other: "Sample") -> "Sample":
        """The differences on the seeds that both have."""
        shared = [seed for seed in self.values if seed in other.values]
        return Sample({seed: self.values[seed] - other.values[seed] for seed in shared})

    def on(self, seeds: Collection[int]) -> "Sample":
        """The numbers of these seeds."""
        return Sample({seed: value for seed, value in self.values.items() if seed in seeds})


NOTHING = Sample({})


@dataclass(frozen=True)
class Results:
    """The rows of the finished runs by key, and which seeds are asked for.

    `adapt` makes of a cell what was run in its place: the quick form runs shorter ones.
    """

    rows: Mapping[str, Row]
    seeds: Sequence[int] = SEEDS
    adapt: Callable[[Cell], Cell] = field(default=lambda cell: cell)

    def runs(self, cell: Cell) -> dict[int, Row]:
        """The finished runs of a cell by seed."""
        keys = {seed: key(replace(self.adapt(cell), seed=seed)) for seed in self.seeds}
        return {seed: self.rows[name] for seed, name in keys.items() if name in self.rows}

    def sample(self, cell: Cell, name: str) -> Sample:
        """A number of the rows (fractions) in percent."""
        runs = self.runs(cell)
        return Sample({seed: 100 * row[name] for seed, row in runs.items() if row.get(name) is not None})

    def curve(self, cell: Cell, name: str) -> list[Sample]:
        """A curve of the rows (fractions) in percent, one sample per round."""
        curves = {seed: row["curves"][name] for seed, row in self.runs(cell).items()}
        length = min((len(curve) for curve in curves.values()), default=0)
        return [
            Sample({seed: 100 * curve[i] for seed, curve in curves.items() if curve[i] is not None})
            for i in range(length)
        ]


def by_key(rows: Iterable[Row]) -> dict[str, Row]:
    """Rows of a sweep by their key."""
    return {row["key"]: row for row in rows}
