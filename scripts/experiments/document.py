"""Writes docs/experiments.md: the hand-written prose of templates/experiments.md, with tables and plots put in.

A line `{{ name }}` of the template stands for a part. Nothing is invented: what has no results says "not run".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from node.learning.task_files import load_task
from node.simulation.settings import with_settings
from scripts.experiments import coordination, tables
from scripts.experiments.bars import bars
from scripts.experiments.cells import DATASETS, SHARED, Place, graph_places, places, variant_places
from scripts.experiments.choose import choice_table, few_table
from scripts.experiments.commands import row_commands
from scripts.experiments.figures import draw_figures, draw_portrait, extent
from scripts.experiments.figures import figures as every_figure
from scripts.experiments.markdown import image, table
from scripts.experiments.nodes import nodes_table
from scripts.experiments.portraits import PORTRAITS, Portrait
from scripts.experiments.samples import Results, Row

TEMPLATE = Path(__file__).parent / "templates" / "experiments.md"
PART = re.compile(r"^\{\{ (\w+) \}\}$", re.MULTILINE)
CAPTIONS = {
    "label_flip": "MNIST, Dirichlet 0.5, 2 of 6 members train on flipped labels, objective `common`, seed 1.",
    "personal": "MNIST, two shards each, nobody attacks, objective `personal`, seed 1.",
}


@dataclass(frozen=True)
class Findings:
    """All that the document is made of."""

    results: Results
    held_out: Results  # of the choice of hyper-parameters
    portraits: Mapping[str, Portrait]
    current: bool = True  # made by the code as it is now
    nodes: Mapping[str, Row] = field(default_factory=dict)  # of real nodes, and simulations with their settings, by key
    coordinated: Mapping[str, Row] = field(default_factory=dict)  # of sessions with a coordinator, by key
    extent: coordination.Extent = coordination.FULL


def write_document(findings: Findings, folder: Path) -> Path:
    """Writes experiments.md and, beside it, experiments/*.png; the document's path."""
    pictures = folder / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    document = folder / "experiments.md"
    document.write_text(filled(TEMPLATE.read_text(), parts(findings, pictures)))
    return document


def filled(template: str, found: Mapping[str, str]) -> str:
    """The template with its parts. Raises KeyError for a part that does not exist, and for one that is not used."""
    names = set(PART.findall(template))
    if names != set(found):
        raise KeyError(f"the template and its parts differ in {', '.join(sorted(names ^ set(found)))}")
    return PART.sub(lambda match: found[match[1]], template)


def parts(findings: Findings, pictures: Path) -> dict[str, str]:
    """Every part by its name."""
    results = findings.results
    found = bars(results)
    commands = row_commands(DATASETS[0])
    return {
        "summary": tables.summary_table(found, results.seeds),
        "missed": tables.missed_table(found, results.seeds),
        "settings": settings(results, findings.current),
        "references": by_dataset(results, tables.reference_table),
        "splits_command": commands["splits"],
        "centralised_command": commands["centralised"],
        "common": by_dataset(results, tables.common_table),
        "personal_command": commands["personal"],
        "personal": by_dataset(results, tables.personal_table),
        "attacks_command": commands["attacks"],
        "attacks": places_tables(results, places, tables.attack_table),
        "personal_attacks": places_tables(results, places, tables.personal_attack_table),
        "personal_attacks_command": commands["personal_attacks"],
        "variants": places_tables(results, variant_places, tables.variant_table),
        "variants_command": commands["variants"],
        "boosted_backdoor": tables.boosted_backdoor_table(results),
        "graphs_command": commands["graphs"],
        "graphs": places_tables(results, graph_places, tables.attack_table),
        "baselines": by_dataset(results, lambda given, name: tables.baseline_table(given, name, graphs=False)),
        "baselines_graphs": by_dataset(results, lambda given, name: tables.baseline_table(given, name, graphs=True)),
        "security": by_dataset(results, tables.security_table),
        "backdoor": tables.backdoor_table(results),
        "nodes": nodes_table(findings.nodes),
        "figures": figures(results, pictures),
        "portraits": portraits(findings.portraits, pictures),
        "choice": choice_table(findings.held_out, DATASETS),
        "few": few_table(findings.held_out, DATASETS),
        **coordination.sections(findings.coordinated, findings.extent, pictures),
    }


def by_dataset(results: Results, make) -> str:
    """A table per data set under its name."""
    return "\n\n".join(f"**{tables.TITLES[dataset]}**\n\n{make(results, dataset)}" for dataset in DATASETS)


def places_tables(
    results: Results, where: Callable[[str], Sequence[Place]], make: Callable[[Results, Place], str]
) -> str:
    """A table per place under its name."""
    blocks = []
    for place in (place for dataset in DATASETS for place in where(dataset)):
        graph = f", {place.graph}" if place.members != SHARED.members else ""
        blocks.append(f"**{tables.TITLES[place.dataset]}, {place.split}{graph}**\n\n{make(results, place)}")
    return "\n\n".join(blocks)


def settings(results: Results, current: bool) -> str:
    """What all cells share, and how much was run."""
    cell = results.adapt(SHARED)
    task = with_settings(load_task(cell.task), cell)
    rate = f"learning rate {task.learning_rate:g} ({task.schedule.__name__})"
    prior = "the objective's λ" if cell.prior_strength is None else f"λ {cell.prior_strength:g}"
    chosen = f"batches of {task.batch_size}, {rate}, {prior}"
    hours = sum(row["seconds"] for row in results.rows.values()) / 3600
    seeds = f"seed{'s' if len(results.seeds) > 1 else ''} {', '.join(map(str, results.seeds))}"
    lines = [
        f"All cells: {cell.rounds} rounds of one local epoch, {chosen}; {seeds}, or as many of them as is said.",
        f"{len(results.rows)} runs, {hours:.1f} hours of one core.",
    ]
    if cell != SHARED:
        lines.insert(0, "**The quick form: it proves nothing.**")
    if not current:
        lines.append("**Made by an earlier state of the code.**")
    return "\n".join(lines)


def figures(results: Results, pictures: Path) -> str:
    """The line plots, and what is missing in them."""
    drawn = draw_figures(results, pictures)
    shown = [f"{image(each.file, each.caption)}\n\n{extent(results, each.points)}" for each in drawn]
    there = {each.file for each in drawn}
    absent = [f"{each.caption} Not run." for each in every_figure(results) if each.file not in there]
    return "\n\n".join([*shown, *absent])


def portraits(found: Mapping[str, Portrait], pictures: Path) -> str:
    """Heat maps, each member's metrics and confusion matrices."""
    blocks = []
    for name in PORTRAITS:
        if name not in found:
            blocks.append(f"{CAPTIONS[name]} Not run.")
            continue
        trust, confusion = draw_portrait(found[name], name, pictures)
        blocks.append(f"{CAPTIONS[name]}\n\n{image(trust, 'Trust by round, in %')}\n\n{member_table(found[name])}")
        blocks.append(image(confusion, "Confusion matrices of the first three honest members, in % of the true class"))
    return "\n\n".join(blocks)


def member_table(portrait: Portrait) -> str:
    """Precision, recall and F1 (macro) per member."""
    names = ("accuracy", "precision", "recall", "f1", "own_accuracy")
    rows = [
        [str(member), *(f"{100 * metrics[name]:.2f}" for name in names)]
        for member, metrics in zip(portrait.honest, portrait.members, strict=True)
    ]
    return table(["member", "accuracy", "precision", "recall", "F1", "accuracy, own distribution"], rows)
