"""The bars of issue 3 and what the runs say about them. Every number is a mean over seeds, in percent or in points.

A bar is `measured >= least`, or `measured < below`; without a run of each side there is nothing to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from node.simulation.attacks import ATTACKS
from scripts.experiments.cells import (
    BASELINES,
    DATASETS,
    REFERENCE_SPLITS,
    SHARED,
    SPLITS,
    Cell,
    Place,
    attack_cell,
    graph_places,
    places,
    split_cell,
)
from scripts.experiments.samples import NOTHING, Results, Sample

COMMON, OWN, LATE_WEIGHT = "common_accuracy", "own_accuracy", "attacker_weight_late"
JUDGED_BY = {"common": COMMON, "personal": OWN}  # by objective
EXACT = 1e-9  # rounding of means: equal runs are "at or above" each other

# Row P11: learned sharing, softmax regression, 6 members (accuracy, std over members), in %.
REFERENCES = {
    ("mnist", "iid"): (92.0, 0.03),
    ("mnist", "skewed:0.5"): (91.1, 0.08),
    ("mnist", "unbalanced"): (92.1, 0.04),
    ("fashion", "iid"): (84.2, 0.10),
    ("fashion", "skewed:0.5"): (82.7, 0.07),
    ("fashion", "unbalanced"): (83.4, 0.12),
}
# Fashion-MNIST iid has a reference for each way of sharing.
REFERENCES_BY_SHARING = {("fashion", "iid"): {"none": 83.2, "fixed": 84.1}}

WITHIN_FIXED = -0.3
ABOVE_FIXED = {"dirichlet:0.1": 3.0, "shards:2": 3.0}  # objective personal
LOST = {"iid": -1.0, "dirichlet:0.5": -2.0}  # under attack
HARM = 1.0  # points lost under fixed sharing
WEIGHT = 1.0
BEHIND_BASELINE = -0.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One demand of a row. `met` is None while nothing was measured, or where the row demands nothing here."""

    row: str
    dataset: str
    setting: str
    demand: str
    measured: Sample
    met: bool | None
    margin: float | None  # how far on the right side; negative: by how much it is missed
    remark: str = ""


def at_least(row: str, dataset: str, words: tuple[str, str], measured: Sample, least: float) -> Bar:
    """A bar `measured >= least`; `words` are its setting and its demand."""
    margin = measured.mean - least if len(measured) else None
    return Bar(row, dataset, *words, measured, None if margin is None else margin >= -EXACT, margin)


def bars(results: Results) -> list[Bar]:
    """Every bar of the table, for both data sets."""
    return [bar for dataset in DATASETS for row in ROW_BARS for bar in bars_of(results, row, dataset)]


def bars_of(results: Results, row: str, dataset: str) -> list[Bar]:
    """The bars of one row and data set."""
    return list(ROW_BARS[row](results, dataset))


def reference_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 1: the reference results; learned at or above fixed at or above no sharing."""
    for split in REFERENCE_SPLITS:
        none, fixed, learned = (
            common(results, split_cell(dataset, split, way)) for way in ("none", "fixed", "learned")
        )
        least, _ = REFERENCES[dataset, split]
        yield at_least("1", dataset, (split, f"learned ≥ {least}"), learned, least)
        for way, sample in (("none", none), ("fixed", fixed)):
            reference = REFERENCES_BY_SHARING.get((dataset, split), {}).get(way)
            if reference is not None:
                yield at_least("1", dataset, (split, f"{way} ≥ {reference}"), sample, reference)
        yield at_least("1", dataset, (split, "learned − fixed ≥ 0"), learned - fixed, 0.0)
        yield at_least("1", dataset, (split, "fixed − none ≥ 0"), fixed - none, 0.0)


def common_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 2: objective `common`, nobody attacks."""
    for split in SPLITS:
        learned = common(results, split_cell(dataset, split, "learned"))
        difference = learned - common(results, split_cell(dataset, split, "fixed"))
        yield at_least("2", dataset, (split, f"learned − fixed ≥ {WITHIN_FIXED}"), difference, WITHIN_FIXED)


def personal_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 3: objective `personal`, accuracy on the member's own distribution."""
    for split in SPLITS:
        learned = results.sample(split_cell(dataset, split, "learned", "personal"), OWN)
        for way, least in (("none", 0.0), ("fixed", ABOVE_FIXED.get(split, 0.0))):
            difference = learned - results.sample(split_cell(dataset, split, way), OWN)
            yield at_least("3", dataset, (split, f"learned − {way} ≥ {least:g}"), difference, least)


def attack_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 4."""
    yield from lost_bars("4", results, places(dataset))


def weight_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 5."""
    for place in places(dataset):
        for attack in ATTACKS:
            yield weight_bar(results, place, attack)


def weight_bar(results: Results, place: Place, attack: str, objective: str = "common") -> Bar:
    """Attackers that do harm under fixed sharing must lose their weight; of the others nothing is demanded."""
    words = f"{place.split}, {attack}", f"weight on attackers < {WEIGHT:g}%"
    harm = harm_done(results, place, attack)
    weight = results.sample(attack_cell(place, "learned", attack, objective), LATE_WEIGHT)
    if not len(harm) or not len(weight):
        return Bar("5", place.dataset, *words, NOTHING, None, None)
    if harm.mean <= HARM:
        return Bar("5", place.dataset, *words, weight, None, None, f"no harm ({harm.mean:+.2f})")
    margin = WEIGHT - weight.mean
    return Bar("5", place.dataset, *words, weight, margin > 0, margin)


def graph_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 6."""
    yield from lost_bars("6", results, graph_places(dataset))


def lost_bars(
    row: str, results: Results, where: Sequence[Place], objective: str = "common", attacks: Sequence[str] = ATTACKS
) -> Iterator[Bar]:
    """Honest members against the same run with the attackers absent."""
    for place in where:
        for attack in attacks:
            least = LOST[place.split]
            setting = ", ".join([*([place.graph] if row == "6" else []), place.split, attack])
            yield at_least(
                row,
                place.dataset,
                (setting, f"attacked − absent ≥ {least}"),
                lost(results, place, attack, objective),
                least,
            )


def baseline_bars(results: Results, dataset: str) -> Iterator[Bar]:
    """Row 7: the best of all baselines, in every cell of the rows 2, 3, 4 and 6, on the seeds that all of them have."""
    for setting, rule, name, rivals in contests(dataset):
        ours = results.sample(rule, name)
        ran = {way: sample for way, cell in rivals.items() if len(sample := results.sample(cell, name))}
        shared = set(ours.values).intersection(*(sample.values for sample in ran.values()))
        leads = {way: (ours - sample).on(shared) for way, sample in ran.items()}
        if not leads or not shared:
            yield Bar("7", dataset, setting, f"rule − best baseline ≥ {BEHIND_BASELINE}", NOTHING, None, None)
            continue
        best = min(leads, key=lambda way: leads[way].mean)
        found = at_least("7", dataset, (setting, f"rule − {best} ≥ {BEHIND_BASELINE}"), leads[best], BEHIND_BASELINE)
        missing = len(rivals) - len(leads)
        remark = f"{missing} of {len(rivals)} baselines not run" if missing else ""
        yield replace(found, remark=remark)


def contests(dataset: str) -> Iterator[tuple[str, Cell, str, dict[str, Cell]]]:
    """Cells of row 7: its name, the rule's cell, what is compared, and the baselines' cells (equal weights too)."""
    ways = ("fixed", *BASELINES)
    for split in SPLITS:
        rivals = {way: split_cell(dataset, split, way) for way in ways}
        yield f"{split}, no attacker, common", split_cell(dataset, split, "learned"), COMMON, rivals
        yield f"{split}, no attacker, personal", split_cell(dataset, split, "learned", "personal"), OWN, rivals
    for place in [*places(dataset), *graph_places(dataset)]:
        where = "" if place.members == SHARED.members else f"{place.graph}, "
        for attack in ATTACKS:
            rivals = {way: attack_cell(place, way, attack) for way in ways}
            setting = f"{where}{place.split}, {attack}"
            yield setting, attack_cell(place, "learned", attack), COMMON, rivals
            if not where:
                yield f"{setting}, personal", attack_cell(place, "learned", attack, "personal"), OWN, rivals
        if where:
            absent = {"fixed": attack_cell(place, "fixed", None)}
            yield f"{where}{place.split}, attackers absent", attack_cell(place, "learned", None), COMMON, absent


def common(results: Results, cell: Cell) -> Sample:
    """Accuracy on the common test set."""
    return results.sample(cell, COMMON)


def lost(results: Results, place: Place, attack: str, objective: str = "common") -> Sample:
    """Points that honest members gain (mostly: lose) by the attackers' presence."""
    attacked, absent = (
        results.sample(attack_cell(place, "learned", name, objective), JUDGED_BY[objective]) for name in (attack, None)
    )
    return attacked - absent


def harm_done(results: Results, place: Place, attack: str) -> Sample:
    """Points that an attack costs under fixed sharing."""
    attacked, absent = (common(results, attack_cell(place, "fixed", name)) for name in (attack, None))
    return absent - attacked


ROW_BARS: Mapping[str, Callable[[Results, str], Iterator[Bar]]] = MappingProxyType(
    {
        "1": reference_bars,
        "2": common_bars,
        "3": personal_bars,
        "4": attack_bars,
        "5": weight_bars,
        "6": graph_bars,
        "7": baseline_bars,
    }
)
