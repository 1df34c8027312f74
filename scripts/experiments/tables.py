"""The results as Markdown tables. A cell is mean ± deviation over the seeds; what was not run says so."""

from collections.abc import Sequence

from node.simulation.attacks import ATTACKS, BACKDOORS, VARIANTS
from scripts.experiments.bars import (
    BEHIND_BASELINE,
    JUDGED_BY,
    LATE_WEIGHT,
    LOST,
    OWN,
    REFERENCES,
    WEIGHT,
    Bar,
    bars_of,
    common,
    contests,
    harm_done,
    lost,
    lost_bars,
    weight_bar,
)
from scripts.experiments.cells import (
    BASELINES,
    DATASETS,
    REFERENCE_SPLITS,
    SHARED,
    SPLITS,
    Place,
    attack_cell,
    central_cell,
    places,
    split_cell,
    variant_places,
)
from scripts.experiments.markdown import NOT_RUN, shown, signed, table, verdict
from scripts.experiments.samples import NOTHING, Results, Sample

MIXED = ("1", "3", "7")  # rows that demand several things of a setting
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
SUMMARY = (
    ("1", "the reference results of P11, three splits", "at or above each; learned ≥ fixed ≥ no sharing"),
    ("2", "no attacker, five splits, objective `common`", "within 0.3 points of fixed sharing"),
    ("3", "no attacker, five splits, objective `personal`, own distribution", "≥ no sharing, ≥ fixed; ≥ fixed + 3"),
    (
        "4",
        "2 of 6 attack, eleven kinds, iid and Dirichlet 0.5",
        "within 1.0 (iid), 2.0 (Dirichlet) of attackers absent",
    ),
    ("5", "the same", "weight on attackers that do harm below 1% after 10 rounds"),
    ("6", "6 of 20 attack; cohorts of 5, ring, 4-regular graph", "as 4"),
    ("7", "all of it against eleven baselines", "no baseline better by more than 0.5 points"),
)


def summary_table(found: Sequence[Bar], seeds: Sequence[int]) -> str:
    """The table of bars: how many of a row are met, and the closest."""
    rows = []
    for row, setting, demand in SUMMARY:
        groups = [[bar for bar in found if (bar.row, bar.dataset) == (row, dataset)] for dataset in DATASETS]
        cells = [summed(group, seeds) for group in groups]
        rows.append([row, setting, demand, *cells])
    return table(["row", "setting", "bar", *TITLES.values()], rows, words=5)


def summed(group: Sequence[Bar], seeds: Sequence[int]) -> str:
    """How many bars are met, of those that were measured, and on how little, if it is not all."""
    judged = [bar for bar in group if bar.margin is not None]
    if not judged:
        return NOT_RUN
    met = sum(bar.met is True for bar in judged)
    missing = sum(bar.met is None and not bar.remark for bar in group)
    fewest = min(len(bar.measured) for bar in judged)
    gaps = [
        *([f"{missing} not run"] if missing else []),
        *([f"some on {fewest} of {len(seeds)} seeds"] if fewest < len(seeds) else []),
        *(["some against few baselines"] if any(bar.remark for bar in judged) else []),
    ]
    count = f"{met} of {len(judged)} met"
    closest = min(judged, key=lambda bar: bar.margin or 0.0)
    words = [f"**{count}**" if met == len(judged) and not gaps else count, *gaps]
    demand = f" ({closest.demand})" if closest.row in MIXED else ""
    return f"{', '.join(words)}; closest: {closest.setting}{demand}, {closest.margin:+.2f}"


def missed_table(found: Sequence[Bar], seeds: Sequence[int]) -> str:
    """Every bar that is not met."""
    missed = [bar for bar in found if bar.met is False]
    if not missed:
        return "None of the bars that were measured is missed."
    rows = [
        [
            bar.row,
            TITLES[bar.dataset],
            bar.setting,
            bar.demand,
            signed(bar.measured, seeds),
            f"{-(bar.margin or 0.0):.2f}",
        ]
        for bar in missed
    ]
    return table(["row", "data set", "setting", "demand", "measured", "missed by"], rows, words=4)


def reference_table(results: Results, dataset: str) -> str:
    """Row 1 and P11, with both references."""
    header = ["split", "P11 (std over members)", "no sharing", "fixed", "learned", "std over members", "verdict"]
    rows = []
    for split in REFERENCE_SPLITS:
        cells = [split_cell(dataset, split, way) for way in ("none", "fixed", "learned")]
        accuracies = [shown(common(results, cell), results.seeds) for cell in cells]
        value, spread = REFERENCES[dataset, split]
        deviation = shown(results.sample(cells[-1], "std_over_members"), results.seeds)
        found = [bar for bar in bars_of(results, "1", dataset) if bar.setting == split]
        rows.append([split, f"{value} ({spread:.2f})", *accuracies, deviation, verdicts(found)])
    central = shown(common(results, central_cell(dataset)), results.seeds)
    return (
        table(header, rows) + f"\n\nCentralised training on everybody's data: {central}. Independent training is the "
        'column "no sharing".'
    )


def verdicts(found: Sequence[Bar]) -> str:
    """Several bars of one line: met, or what is not."""
    measured = [bar for bar in found if bar.met is not None]
    missed = [bar for bar in measured if not bar.met]
    if not measured:
        return NOT_RUN
    words = "met" if not missed else "; ".join(f"{bar.demand}: {verdict(bar)}" for bar in missed)
    return words if len(measured) == len(found) else f"{words} ({len(measured)} of {len(found)} bars run)"


def common_table(results: Results, dataset: str) -> str:
    """Row 2."""
    rows = []
    for split, bar in zip(SPLITS, bars_of(results, "2", dataset), strict=True):
        accuracies = [common(results, split_cell(dataset, split, way)) for way in ("none", "fixed", "learned")]
        cells = [shown(sample, results.seeds) for sample in accuracies]
        rows.append([split, *cells, signed(bar.measured, results.seeds), verdict(bar)])
    return table(["split", "no sharing", "fixed", "learned", "learned − fixed", "verdict"], rows)


def personal_table(results: Results, dataset: str) -> str:
    """Row 3."""
    rows = []
    for split in SPLITS:
        cells = [
            split_cell(dataset, split, "none"),
            split_cell(dataset, split, "fixed"),
            split_cell(dataset, split, "learned", "personal"),
        ]
        accuracies = [shown(results.sample(cell, OWN), results.seeds) for cell in cells]
        found = [bar for bar in bars_of(results, "3", dataset) if bar.setting == split]
        differences = [signed(bar.measured, results.seeds) for bar in found]
        rows.append([split, *accuracies, *differences, verdicts(found)])
    header = ["split", "no sharing", "fixed", "learned", "learned − none", "learned − fixed", "verdict"]
    return table(header, rows)


def attack_table(results: Results, place: Place, objective: str = "common", attacks: Sequence[str] = ATTACKS) -> str:
    """Rows 4 and 5, or row 6, in one place; those of objective `personal` by accuracy on the own distribution."""
    seeds, name = results.seeds, JUDGED_BY[objective]
    ways = ("fixed", "learned")

    def accuracies(attack: str | None) -> list[str]:
        return [shown(results.sample(attack_cell(place, way, attack, objective), name), seeds) for way in ways]

    rows = []
    for attack, bar in zip(attacks, lost_bars("4", results, [place], objective, attacks), strict=True):
        weight = results.sample(attack_cell(place, "learned", attack, objective), LATE_WEIGHT)
        weighed = [shown(weight, seeds), verdict(weight_bar(results, place, attack, objective))]
        rows.append([attack, *accuracies(attack), signed(bar.measured, seeds), verdict(bar), *weighed])
    bound = f"≥ {LOST[place.split]}"
    header = ["attack", *ways, "attacked − absent", bound, "weight on attackers (%)", f"< {WEIGHT:g}%"]
    absent = ", ".join(f"{way} {accuracy}" for way, accuracy in zip(ways, accuracies(None), strict=True))
    return f"With the attackers absent: {absent}.\n\n{table(header, rows)}"


def personal_attack_table(results: Results, place: Place) -> str:
    """The same for objective `personal`."""
    return attack_table(results, place, "personal")


def variant_table(results: Results, place: Place) -> str:
    """The same for attackers who know the rule."""
    return attack_table(results, place, attacks=VARIANTS)


def baseline_table(results: Results, dataset: str, graphs: bool) -> str:
    """Row 7: the rule in %, and the points that each baseline is better or worse; bold where better by more than 0.5.

    On the seeds that both have. Baselines that nobody ran here have no column.
    """
    ours, leads = {}, {}
    for setting, rule, name, rivals in contests(dataset):
        if (rule.members != SHARED.members) == graphs:
            ours[setting] = results.sample(rule, name)
            leads[setting] = {way: results.sample(cell, name) - ours[setting] for way, cell in rivals.items()}
    ways = ("fixed", *BASELINES)
    ran = [way for way in ways if any(len(lead.get(way, NOTHING)) for lead in leads.values())]
    if not ran:
        return f"{NOT_RUN[0].upper()}{NOT_RUN[1:]}."
    rows = [
        [
            setting,
            shown(sample, results.seeds),
            *(ahead(leads[setting].get(way, NOTHING), results.seeds) for way in ran),
        ]
        for setting, sample in ours.items()
    ]
    absent = ", ".join(title(way) for way in ways if way not in ran)
    return table(["cell", "the rule", *map(title, ran)], rows) + (f"\n\nNot run: {absent}." if absent else "")


def title(way: str) -> str:
    """A way of sharing, for people."""
    return way.replace("_", " ")


def ahead(lead: Sample, seeds: Sequence[int]) -> str:
    """How many points a baseline is better than the rule, and on how many seeds if not all; or a dash."""
    if not len(lead):
        return "-"
    words = f"{round(lead.mean, 2) + 0.0:+.2f}" + (f" ({len(lead)})" if len(lead) < len(seeds) else "")
    return f"**{words}**" if lead.mean > -BEHIND_BASELINE else words


def security_table(results: Results, dataset: str) -> str:
    """P14: what attackers achieve: accuracy lost, weight, and how often the backdoor opens."""
    rows = []
    for place in places(dataset):
        for attack in ATTACKS:
            harm, gain = harm_done(results, place, attack), lost(results, place, attack)
            weight = results.sample(attack_cell(place, "learned", attack), "attacker_weight")
            loss = Sample({seed: -value for seed, value in gain.values.items()})
            cells = [shown(sample, results.seeds) for sample in (harm, loss, weight)]
            rows.append([f"{place.split}, {attack}", *cells])
    header = ["attack", "lost under fixed (points)", "lost under the rule", "weight in the last round (%)"]
    return table(header, rows)


def boosted_backdoor_table(results: Results) -> str:
    """The same where members have few neighbours, for a backdoor whose step is lengthened too."""
    cases = [(way, attack) for attack in (None, *BACKDOORS) for way in ("fixed", "learned")]
    rows = []
    for place in (place for dataset in DATASETS for place in variant_places(dataset) if place.split != "iid"):
        rates = [results.sample(attack_cell(place, way, attack), "backdoor") for way, attack in cases]
        where = place.graph if place.members != SHARED.members else "all"
        rows.append([f"{TITLES[place.dataset]}, {where}", *(shown(rate, results.seeds) for rate in rates)])
    return table(["", *(f"{attack or 'absent'}, {way}" for way, attack in cases)], rows)


def backdoor_table(results: Results) -> str:
    """How many stamped test images (of other classes) are taken for the attackers' class."""
    cases = [(way, None) for way in ("fixed", "learned")]
    cases += [(way, "backdoor") for way in ("fixed", "learned", *BASELINES)]
    rows = []
    for place in (place for dataset in DATASETS for place in places(dataset)):
        rates = [results.sample(attack_cell(place, way, attack), "backdoor") for way, attack in cases]
        rows.append([f"{TITLES[place.dataset]}, {place.split}", *(shown(rate, results.seeds) for rate in rates)])
    return table(["", *(title(way) if attack else f"absent, {way}" for way, attack in cases)], rows)
