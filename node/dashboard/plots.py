"""Plots as PNG files: lines, trust as heat maps, confusion matrices. Uses matplotlib without a display."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Matrix = Sequence[Sequence[float]]
DOTS_PER_INCH = 84
DOTS_OF_HEAT_MAPS = 80


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart through (x, y); `spread` (of y, both ways) shades it, `names` are written at its points."""

    label: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one x; `logarithmic` is x's scale, and then every x of the lines is a tick if `ticks` are given."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    logarithmic: bool = False
    ticks: Sequence[float] = ()


def plot_accuracy(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Writes accuracy (percent) by round, a line per member, to a PNG file."""
    lines = [Line(label, [(round, 100 * value) for round, value in points]) for label, points in curves.items()]
    plot_lines([Chart("Accuracy by round", "round", "test accuracy (%)", lines)], path)


def plot_lines(charts: Sequence[Chart], path: Path) -> None:
    """Writes charts side by side, with one y axis, to a PNG file."""
    figure = Figure(figsize=(1 + 5.5 * len(charts), 4.2), layout="constrained", dpi=DOTS_PER_INCH)
    columns = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
    for axes, chart in zip(columns, charts, strict=True):
        for number, line in enumerate(chart.lines):
            _draw(axes, line, 5 if number == 0 else -10)
        axes.set(xlabel=chart.x, ylabel=chart.y if axes is columns[0] else "", title=chart.title)
        if chart.logarithmic:
            axes.set_xscale("log")
        if chart.ticks:
            axes.set_xticks(chart.ticks, [f"{tick:g}" for tick in chart.ticks])
            axes.minorticks_off()
        elif not chart.logarithmic:
            axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save(figure, path)


def plot_trust(matrices: Mapping[int, Matrix], path: Path, members: Sequence[int] | None = None) -> None:
    """Writes trust matrices (fractions; by round) side by side as heat maps to a PNG file.

    A row per member (`members` are their indices, if not all have a row), a column per peer.
    """
    rounds = _spread(sorted(matrices), 4)
    largest = max((weight for matrix in matrices.values() for row in matrix for weight in row), default=1.0)
    figure = Figure(figsize=(3.2 * max(1, len(rounds)), 3.4), layout="constrained", dpi=DOTS_OF_HEAT_MAPS)
    for place, round in enumerate(rounds):
        matrix = matrices[round]
        axes = figure.add_subplot(1, len(rounds), place + 1)
        image = axes.imshow(matrix, vmin=0, vmax=largest, cmap="viridis")
        axes.set(xlabel="peer", ylabel="member", title=f"trust, round {round}", xticks=range(len(matrix[0])))
        axes.set_yticks(range(len(matrix)), [str(member) for member in members or range(len(matrix))])
        _write(axes, [[100 * weight for weight in row] for row in matrix], 60 * largest)
    if rounds:
        figure.colorbar(image, ax=axes, shrink=0.7)
    save(figure, path)


def plot_confusion(matrices: Mapping[str, Matrix], path: Path) -> None:
    """Writes confusion matrices (true class by row, predicted by column; counts) as heat maps, in % of the row."""
    figure = Figure(figsize=(3.6 * len(matrices), 3.9), layout="constrained", dpi=DOTS_PER_INCH)
    for place, (title, matrix) in enumerate(matrices.items()):
        axes = figure.add_subplot(1, len(matrices), place + 1)
        shares = [[100 * count / max(1, sum(row)) for count in row] for row in matrix]
        axes.imshow(shares, vmin=0, vmax=100, cmap="viridis")
        ticks = range(len(shares))
        axes.set(xlabel="predicted", ylabel="true", title=title, xticks=ticks, yticks=ticks)
        _write(axes, shares, 60.0)
    save(figure, path)


def plot_privacy(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes accuracy and what a membership attack achieves (both in percent, 95 % intervals) by epsilon.

    A row has `epsilon` (None: without privacy, at the right), `accuracy`, `membership_advantage` and its interval.
    """
    ordered = sorted(rows, key=lambda row: float("inf") if row["epsilon"] is None else row["epsilon"])
    names = ["none" if row["epsilon"] is None else f"{row['epsilon']:g}" for row in ordered]
    places = list(range(len(ordered)))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained", dpi=DOTS_PER_INCH)
    left = figure.add_subplot(1, 1, 1)
    [accuracy] = left.plot(places, [100 * row["accuracy"] for row in ordered], marker="o", label="accuracy")
    right = left.twinx()
    found = [100 * row["membership_advantage"] for row in ordered]
    ends = [[100 * end for end in row["membership_advantage_interval"]] for row in ordered]
    reach = [[one - low for one, (low, _) in zip(found, ends, strict=True)],
             [high - one for one, (_, high) in zip(found, ends, strict=True)]]  # fmt: skip
    attack = right.errorbar(places, found, reach, color="tab:red", marker="s", capsize=4, label="membership advantage")
    right.axhline(0, color="tab:red", alpha=0.3, linewidth=0.8)
    left.set(xlabel="epsilon (smaller is more private)", ylabel="test accuracy (%)", title="Privacy against accuracy")
    left.set_xticks(places, names)
    right.set_ylabel("advantage of the better attack (%)")
    left.grid(alpha=0.3)
    left.legend(handles=[accuracy, attack], fontsize="small", loc="lower right")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Renders a figure into a PNG file."""
    FigureCanvasAgg(figure).print_png(str(path))


def _draw(axes: Any, line: Line, above: int) -> None:
    xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
    [drawn] = axes.plot(xs, ys, marker="o", markersize=4, label=line.label)
    if line.spread:
        low = [y - spread for y, spread in zip(ys, line.spread, strict=True)]
        high = [y + spread for y, spread in zip(ys, line.spread, strict=True)]
        axes.fill_between(xs, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
    for (x, y), name in zip(line.points, line.names, strict=False):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, above), fontsize="x-small")


def _write(axes: Any, matrix: Matrix, light: float) -> None:
    """Writes the numbers of at least a half into a heat map, dark on fields from `light` on."""
    size = "small" if len(matrix[0]) <= 8 else "xx-small"
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value >= 0.5 or len(row) <= 8:
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", size=size, color="wk"[value >= light])


def _spread(values: Sequence[int], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
