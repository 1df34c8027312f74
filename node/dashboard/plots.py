"""Plots as PNG files: accuracy by round, trust as heat maps. Uses matplotlib without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_accuracy(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Writes accuracy (percent) by round, a line per member, to a PNG file."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot([round for round, _ in points], [100 * value for _, value in points], marker="o", label=label)
    axes.set(xlabel="round", ylabel="test accuracy (%)", title="Accuracy by round")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_trust(matrices: Mapping[int, Sequence[Sequence[float]]], path: Path) -> None:
    """Writes trust matrices (fractions; by round) side by side as heat maps to a PNG file."""
    shown = _spread(sorted(matrices), 4)
    largest = max((weight for matrix in matrices.values() for row in matrix for weight in row), default=1.0)
    figure = Figure(figsize=(3.2 * max(1, len(shown)), 3.4), layout="constrained")
    for place, round in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        image = axes.imshow(matrices[round], vmin=0, vmax=largest, cmap="viridis")
        ticks = range(len(matrices[round]))
        axes.set(xlabel="peer", ylabel="member", title=f"trust, round {round}", xticks=ticks, yticks=ticks)
        for i, row in enumerate(matrices[round]):
            for j, weight in enumerate(row):
                axes.text(
                    j, i, f"{100 * weight:.0f}", ha="center", va="center", color="w" if weight < 0.6 * largest else "k"
                )
        figure.colorbar(image, ax=axes, shrink=0.7)
    save(figure, path)


def _spread(values: Sequence[int], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def save(figure: Figure, path: Path) -> None:
    """Renders a figure into a PNG file."""
    FigureCanvasAgg(figure).print_png(str(path))
