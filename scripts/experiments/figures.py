"""The plots of docs/experiments.md, from the results that there are; what has no results yet is not drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node.dashboard.plots import Chart, Line, plot_confusion, plot_lines, plot_trust
from scripts.experiments.bars import COMMON
from scripts.experiments.cells import (
    CODECS,
    COHORTS,
    DATASETS,
    MEMBER_COUNTS,
    PLOT_ATTACKERS,
    PLOT_ATTACKS,
    PLOT_RULES,
    PLOT_SPLIT,
    SHARING,
    Cell,
    Place,
    attack_cell,
    attackers_cell,
    bytes_cell,
    members_cell,
    split_cell,
)
from scripts.experiments.portraits import Portrait
from scripts.experiments.samples import Results
from scripts.experiments.tables import TITLES

ACCURACY = "common test accuracy (%)"
KILOBYTES = (1, 2, 5, 10, 20, 50, 100, 150, 200)
NAMES = {"none": "no sharing", "fixed": "fixed", "learned": "learned"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot's file name, what it shows, and its charts (those without lines are left out)."""

    file: str
    caption: str
    charts: Sequence[Chart]


def figures(results: Results) -> list[Figure]:
    """Every line plot."""
    return [
        Figure(
            "rounds.png",
            "Accuracy by communication round, Dirichlet 0.5, nobody attacks.",
            [rounds_chart(results, dataset) for dataset in DATASETS],
        ),
        Figure(
            "rounds_attacked.png",
            "Accuracy by communication round, MNIST, Dirichlet 0.5, 2 of 6 members attack.",
            [attacked_chart(results, attack) for attack in PLOT_ATTACKS],
        ),
        Figure("members.png", "Accuracy by number of members; from 8 on each asks 5.", [members_chart(results)]),
        Figure("bytes.png", "Accuracy by bytes that a member receives in a round.", [bytes_chart(results)]),
        Figure(
            "attackers.png",
            "Accuracy of the honest of 10 members by the share of attackers, MNIST, Dirichlet 0.5.",
            [attackers_chart(results, attack) for attack in PLOT_ATTACKS],
        ),
    ]


def draw_figures(results: Results, folder: Path) -> list[Figure]:
    """Draws what can be drawn into the folder; those figures."""
    drawn = []
    for figure in figures(results):
        charts = [chart for chart in figure.charts if chart.lines]
        if charts:
            plot_lines(charts, folder / figure.file)
            drawn.append(figure)
    return drawn


def draw_portrait(portrait: Portrait, name: str, folder: Path) -> list[str]:
    """Draws a portrait's heat maps and confusion matrices; the names of the files."""
    plot_trust(portrait.trust, folder / f"trust_{name}.png", portrait.honest)
    chosen = list(zip(portrait.honest, portrait.confusions, strict=True))[:3]
    plot_confusion({f"member {member}": matrix for member, matrix in chosen}, folder / f"confusion_{name}.png")
    return [f"trust_{name}.png", f"confusion_{name}.png"]


def rounds_chart(results: Results, dataset: str) -> Chart:
    """A line per way of sharing."""
    cells = {NAMES[way]: split_cell(dataset, PLOT_SPLIT, way) for way in SHARING}
    return Chart(TITLES[dataset], "round", ACCURACY, curves(results, cells))


def attacked_chart(results: Results, attack: str) -> Chart:
    """Attacked, and with the attackers absent."""
    place = Place(DATASETS[0], PLOT_SPLIT)
    cells = {NAMES[way]: attack_cell(place, way, attack) for way in ("fixed", "learned")}
    cells["learned, attackers absent"] = attack_cell(place, "learned", None)
    return Chart(attack.replace("_", " "), "round", ACCURACY, curves(results, cells))


def members_chart(results: Results) -> Chart:
    """From 2 to 64 members."""
    lines = [
        line(results, NAMES[way], [(count, members_cell(count, way)) for count in MEMBER_COUNTS]) for way in SHARING
    ]
    return Chart("MNIST, Dirichlet 0.5", "members", ACCURACY, drawn(lines), logarithmic=True, ticks=MEMBER_COUNTS)


def bytes_chart(results: Results) -> Chart:
    """By codec, and by how many peers are asked."""
    asked = [
        by_bytes(
            results, f"{codec}, by peers asked", [(f"{count} peers", bytes_cell(codec, count)) for count in COHORTS]
        )
        for codec in ("float32", "int8")
    ]
    coded = by_bytes(results, "everybody asked, by codec", [(codec, bytes_cell(codec, None)) for codec in CODECS])
    lines = drawn([coded, *asked])
    sizes = [x for line in lines for x, _ in line.points]
    ticks = [tick for tick in KILOBYTES if sizes and min(sizes) * 0.8 <= tick <= max(sizes) * 1.2]
    return Chart("MNIST, Dirichlet 0.5, learned", "kB per member and round", ACCURACY, lines, True, ticks)


def attackers_chart(results: Results, attack: str) -> Chart:
    """A line per rule."""
    lines = [
        line(
            results,
            rule.replace("_", " "),
            [(10 * count, attackers_cell(attack, count, rule)) for count in PLOT_ATTACKERS],
        )
        for rule in PLOT_RULES
    ]
    return Chart(attack.replace("_", " "), "attackers (% of the members)", ACCURACY, drawn(lines))


def curves(results: Results, cells: dict[str, Cell]) -> list[Line]:
    """Accuracy by round."""
    lines = []
    for label, cell in cells.items():
        samples = results.curve(cell, "common")
        points = [(round, sample.mean) for round, sample in enumerate(samples, 1)]
        lines.append(Line(label, points, [sample.std for sample in samples]))
    return drawn(lines)


def line(results: Results, label: str, cells: Sequence[tuple[float, Cell]]) -> Line:
    """Final accuracy of cells by x."""
    samples = [(x, results.sample(cell, COMMON)) for x, cell in cells]
    found = [(x, sample) for x, sample in samples if len(sample)]
    return Line(label, [(x, sample.mean) for x, sample in found], [sample.std for _, sample in found])


def by_bytes(results: Results, label: str, cells: Sequence[tuple[str, Cell]]) -> Line:
    """Final accuracy of named cells by the kilobytes that a member receives in a round."""
    found = []
    for name, cell in cells:
        accuracy, percent = results.sample(cell, COMMON), results.sample(cell, "bytes_per_member_round")
        if len(accuracy):
            found.append((percent.mean / 100 / 1e3, accuracy.mean, accuracy.std, name))
    found.sort()
    return Line(label, [(x, y) for x, y, _, _ in found], [std for _, _, std, _ in found], [name for *_, name in found])


def drawn(lines: Sequence[Line]) -> list[Line]:
    """The lines that have a point."""
    return [line for line in lines if line.points]
