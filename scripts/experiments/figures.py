"""The plots of docs/experiments.md, from the results that there are; what has no results yet is not drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from scripts.experiments.tables import TITLES, title

ACCURACY = "common test accuracy (%)"
KILOBYTES = (1, 2, 5, 10, 20, 50, 100, 150, 200)
NAMES = {"none": "no sharing", "fixed": "fixed", "learned": "learned"}

Points = Mapping[str, Sequence[tuple[str, float, Cell]]]  # by line: each point's name, its x, and the cell


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot's file name, what it shows, its charts (those without lines are left out), and all that it could show."""

    file: str
    caption: str
    charts: Sequence[Chart]
    points: Points


def figures(results: Results) -> list[Figure]:
    """Every line plot."""
    members, sizes = members_points(), bytes_points()
    shares = {attack: attackers_points(attack) for attack in PLOT_ATTACKS}
    every_share = {f"{title(kind)}, {rule}": line for kind, rules in shares.items() for rule, line in rules.items()}
    alike = comparable(results, every_share)
    return [
        Figure(
            "rounds.png",
            "Accuracy by communication round, MNIST and Fashion-MNIST, Dirichlet 0.5, nobody attacks.",
            *by_round(results, {TITLES[dataset]: way_cells(dataset) for dataset in DATASETS}),
        ),
        Figure(
            "rounds_attacked.png",
            "Accuracy by communication round, MNIST, Dirichlet 0.5, 2 of 6 members attack.",
            *by_round(results, {title(attack): attack_ways(attack) for attack in PLOT_ATTACKS}),
        ),
        Figure(
            "members.png",
            "Accuracy by number of members, MNIST, Dirichlet 0.5; from 8 on each asks 5.",
            [members_chart(comparable(results, members), members)],
            members,
        ),
        Figure(
            "bytes.png",
            "Accuracy by bytes that a member receives in a round, MNIST, Dirichlet 0.5.",
            [bytes_chart(comparable(results, sizes), sizes)],
            sizes,
        ),
        Figure(
            "attackers.png",
            "Accuracy of the honest of 10 members by the share of attackers, MNIST, Dirichlet 0.5.",
            [attackers_chart(alike, attack, points) for attack, points in shares.items()],
            every_share,
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


def comparable(results: Results, points: Points) -> Results:
    """The results of the seeds that all points have which were run at all: of other seeds, differences say nothing."""
    ran = [found for cells in points.values() for _, _, cell in cells if (found := results.runs(cell).keys())]
    shared = [seed for seed in results.seeds if all(seed in found for found in ran)]
    return replace(results, seeds=shared) if shared else results


def extent(found: Results, points: Points) -> str:
    """On how many seeds the points are, and which ones were not run."""
    results = comparable(found, points)
    counts = {line: [len(results.runs(cell)) for _, _, cell in cells] for line, cells in points.items()}
    seeds = sorted({count for line in counts.values() for count in line if count})
    absent = []
    for line, cells in points.items():
        names = [name for (name, _, _), count in zip(cells, counts[line], strict=True) if not count]
        if names:
            absent.append(line if len(names) == len(cells) else f"{line} ({', '.join(names)})")
    spread = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(*seeds)
    shade = ", shaded ± standard deviation" if seeds and seeds[-1] > 1 else ""
    many = f"Mean over {spread} seed{'' if seeds == [1] else 's'}{shade}." if seeds else ""
    return " ".join([*([many] if many else []), *([f"Not run: {'; '.join(absent)}."] if absent else [])])


def draw_portrait(portrait: Portrait, name: str, folder: Path) -> list[str]:
    """Draws a portrait's heat maps and confusion matrices; the names of the files."""
    plot_trust(portrait.trust, folder / f"trust_{name}.png", portrait.honest)
    chosen = list(zip(portrait.honest, portrait.confusions, strict=True))[:3]
    plot_confusion({f"member {member}": matrix for member, matrix in chosen}, folder / f"confusion_{name}.png")
    return [f"trust_{name}.png", f"confusion_{name}.png"]


def way_cells(dataset: str) -> dict[str, Cell]:
    """Nobody attacks, by way of sharing."""
    return {NAMES[way]: split_cell(dataset, PLOT_SPLIT, way) for way in SHARING}


def attack_ways(attack: str) -> dict[str, Cell]:
    """Attacked, and with the attackers absent."""
    place = Place(DATASETS[0], PLOT_SPLIT)
    cells = {NAMES[way]: attack_cell(place, way, attack) for way in ("fixed", "learned")}
    return {**cells, "learned, attackers absent": attack_cell(place, "learned", None)}


def members_points() -> Points:
    """From 2 to 64 members."""
    return {NAMES[way]: [(str(count), count, members_cell(count, way)) for count in MEMBER_COUNTS] for way in SHARING}


def members_chart(results: Results, points: Points) -> Chart:
    """A line per way of sharing."""
    lines = [line(results, label, cells) for label, cells in points.items()]
    return Chart("MNIST, Dirichlet 0.5", "members", ACCURACY, drawn(lines), logarithmic=True, ticks=MEMBER_COUNTS)


def bytes_points() -> Points:
    """By codec, and by how many peers are asked."""
    asked = {
        f"{codec}, by peers asked": [
            (f"{count} peer{'s' if count > 1 else ''}", 0.0, bytes_cell(codec, count)) for count in COHORTS
        ]
        for codec in ("float32", "int8")
    }
    return {"everybody asked, by codec": [(codec, 0.0, bytes_cell(codec, None)) for codec in CODECS], **asked}


def bytes_chart(results: Results, points: Points) -> Chart:
    """A point's x is what was received."""
    lines = drawn([by_bytes(results, label, cells) for label, cells in points.items()])
    sizes = [x for line in lines for x, _ in line.points]
    ticks = [tick for tick in KILOBYTES if sizes and min(sizes) * 0.8 <= tick <= max(sizes) * 1.2]
    return Chart("MNIST, Dirichlet 0.5, learned", "kB per member and round", ACCURACY, lines, True, ticks)


def attackers_points(attack: str) -> Points:
    """From nobody to half of the members, by rule."""
    return {
        title(rule): [(f"{10 * count}%", 10 * count, attackers_cell(attack, count, rule)) for count in PLOT_ATTACKERS]
        for rule in PLOT_RULES
    }


def attackers_chart(results: Results, attack: str, points: Points) -> Chart:
    """A line per rule."""
    lines = [line(results, label, cells) for label, cells in points.items()]
    return Chart(title(attack), "attackers (% of the members)", ACCURACY, drawn(lines))


def by_round(results: Results, groups: Mapping[str, dict[str, Cell]]) -> tuple[list[Chart], Points]:
    """A chart for each group of cells, a curve for each cell; and the cells as points."""
    charts = [Chart(name, "round", ACCURACY, curves(results, cells)) for name, cells in groups.items()]
    points = {f"{name}, {way}": [(way, 0.0, cell)] for name, cells in groups.items() for way, cell in cells.items()}
    return charts, points


def curves(results: Results, cells: dict[str, Cell]) -> list[Line]:
    """Accuracy by round."""
    lines = []
    for label, cell in cells.items():
        samples = results.curve(cell, "common")
        points = [(round, sample.mean) for round, sample in enumerate(samples, 1)]
        lines.append(Line(label, points, [sample.std for sample in samples]))
    return drawn(lines)


def line(results: Results, label: str, cells: Sequence[tuple[str, float, Cell]]) -> Line:
    """Final accuracy of cells by x."""
    samples = [(x, results.sample(cell, COMMON)) for _, x, cell in cells]
    found = [(x, sample) for x, sample in samples if len(sample)]
    return Line(label, [(x, sample.mean) for x, sample in found], [sample.std for _, sample in found])


def by_bytes(results: Results, label: str, cells: Sequence[tuple[str, float, Cell]]) -> Line:
    """Final accuracy of named cells by the kilobytes that a member receives in a round."""
    found = []
    for name, _, cell in cells:
        accuracy, percent = results.sample(cell, COMMON), results.sample(cell, "bytes_per_member_round")
        if len(accuracy):
            found.append((percent.mean / 100 / 1e3, accuracy.mean, accuracy.std, name))
    found.sort()
    return Line(label, [(x, y) for x, y, _, _ in found], [std for _, _, std, _ in found], [name for *_, name in found])


def drawn(lines: Sequence[Line]) -> list[Line]:
    """The lines that have a point."""
    return [line for line in lines if line.points]
