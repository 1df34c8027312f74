"""Bars, tables and plots on made-up rows."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from node.cli.result import Result
from node.cli.simulate import simulate
from node.simulation.attacks import KINDS
from node.simulation.results import key
from node.simulation.run import SHARING
from scripts.experiments import choose, tables
from scripts.experiments.bars import bars, bars_of
from scripts.experiments.cells import (
    DATASETS,
    ROWS,
    SEEDS,
    SHARED,
    Place,
    all_runs,
    attack_cell,
    graph_places,
    members_cell,
    row_cells,
    seeded,
    split_cell,
)
from scripts.experiments.commands import command
from scripts.experiments.figures import draw_figures, extent, figures, members_points
from scripts.experiments.markdown import verdict
from scripts.experiments.samples import Results, Sample

IID = Place("mnist", "iid")


def made_up(cells, seeds=SEEDS):
    """Results in which a cell has these fractions by name, a thousandth of the seed added to `common_accuracy`."""
    rows = {}
    for cell, numbers in cells.items():
        for seed in seeds:
            common = numbers.get("common_accuracy", 0.9) + seed / 1000
            curves = {"common": [0.5, common], "own": [0.5, 0.5], "attacker_weight": [0.1, 0.0]}
            row = {**numbers, "common_accuracy": common, "curves": curves, "seconds": 1.0}
            rows[key(replace(cell, seed=seed))] = row
    return Results(rows)


def found(results, row, setting, demand=""):
    [bar] = [bar for bar in bars_of(results, row, "mnist") if bar.setting == setting and bar.demand.startswith(demand)]
    return bar


@pytest.mark.real
def test_without_runs_no_bar_is_met_and_every_table_says_so():
    nothing = Results({})
    assert {bar.met for bar in bars(nothing)} == {None}
    assert tables.summary_table(bars(nothing), SEEDS).count("not run") == 14
    assert "not run" in tables.attack_table(nothing, IID)
    assert choose.choice_table(nothing, ["mnist"]) == "Not run."


def test_the_mean_is_over_seeds_and_differences_are_paired():
    ours, theirs = Sample({1: 90.0, 2: 92.0, 3: 91.0}), Sample({1: 89.0, 2: 91.0})
    assert ours.mean == 91.0
    assert ours.std == pytest.approx(1.0)
    assert (ours - theirs).values == {1: 1.0, 2: 1.0}
    assert (ours - theirs).std == 0.0


@pytest.mark.parametrize(("learned", "met"), [(0.8972, True), (0.8968, False)])
def test_a_common_model_may_lose_three_tenths_of_a_point(learned, met):
    cells = {"fixed": 0.9, "learned": learned}
    results = made_up({split_cell("mnist", "iid", way): {"common_accuracy": value} for way, value in cells.items()})
    bar = found(results, "2", "iid")
    assert bar.met is met
    assert bar.margin == pytest.approx(100 * (learned - 0.9) + 0.3)
    assert ("iid" in tables.missed_table([bar], SEEDS)) is not met


def test_a_personal_model_must_be_three_points_above_fixed_where_members_see_few_classes():
    cells = [("none", 0.93), ("fixed", 0.9), ("learned", 0.929)]
    for split, verdicts in (("dirichlet:0.1", [False, False]), ("dirichlet:0.5", [False, True])):
        results = made_up({split_cell("mnist", split, way, "personal"): {"own_accuracy": own} for way, own in cells})
        assert [bar.met for bar in bars_of(results, "3", "mnist") if bar.setting == split] == verdicts


def test_the_reference_results_are_held_to_the_letter():
    ways = {"none": 0.83, "fixed": 0.85, "learned": 0.846}
    results = made_up({split_cell("fashion", "iid", way): {"common_accuracy": value} for way, value in ways.items()})
    verdicts = {bar.demand: bar.met for bar in bars_of(results, "1", "fashion") if bar.setting == "iid"}
    assert verdicts == {
        "learned ≥ 84.2": True,
        "none ≥ 83.2": True,  # the seeds add 0.3 points
        "fixed ≥ 84.1": True,
        "learned − fixed ≥ 0": False,
        "fixed − none ≥ 0": True,
    }


def attacked(fixed, learned, weight, place=IID, attack="sign_flip"):
    return {
        attack_cell(place, "fixed", None): {"common_accuracy": 0.92},
        attack_cell(place, "learned", None): {"common_accuracy": 0.92},
        attack_cell(place, "fixed", attack): {"common_accuracy": fixed},
        attack_cell(place, "learned", attack): {"common_accuracy": learned, "attacker_weight_late": weight},
    }


def test_honest_members_may_lose_a_point_to_attackers():
    assert found(made_up(attacked(0.1, 0.911, 0.0)), "4", "iid, sign_flip").met is True
    bar = found(made_up(attacked(0.1, 0.905, 0.0)), "4", "iid, sign_flip")
    assert bar.met is False
    assert bar.margin == pytest.approx(-0.5)
    assert verdict(bar) == "**missed by 0.50**"


def test_the_same_bar_holds_on_graphs():
    place = graph_places("mnist")[3]
    assert found(made_up(attacked(0.1, 0.905, 0.0, place)), "6", "ring, dirichlet:0.5, sign_flip").met is True


def test_the_rule_is_compared_with_fixed_sharing_where_attackers_left_a_graph():
    place = graph_places("mnist")[3]
    ways = {"learned": 0.89, "fixed": 0.90}
    results = made_up({attack_cell(place, way, None): {"common_accuracy": ways[way]} for way in ways})
    bar = found(results, "7", "ring, dirichlet:0.5, attackers absent")
    assert (bar.met, bar.margin, bar.remark) == (False, pytest.approx(-0.5), "")


def test_objective_personal_is_judged_under_attack_by_the_own_distribution():
    ours = {"own_accuracy": 0.93, "attacker_weight_late": 0.02}
    results = made_up(
        attacked(0.5, 0.92, 0.0)
        | {attack_cell(IID, "learned", None, "personal"): {"own_accuracy": 0.95}}
        | {attack_cell(IID, "learned", "sign_flip", "personal"): ours}
    )
    shown = tables.personal_attack_table(results, IID)
    assert "With the attackers absent: fixed not run, learned 95.00 ± 0.00." in shown
    assert "| -2.00 ± 0.00 | **missed by 1.00** | 2.00 ± 0.00 | **missed by 1.00** |" in shown


def test_only_attackers_that_do_harm_must_lose_their_weight():
    assert found(made_up(attacked(0.5, 0.92, 0.005)), "5", "iid, sign_flip").met is True
    assert found(made_up(attacked(0.5, 0.92, 0.02)), "5", "iid, sign_flip").met is False
    harmless = found(made_up(attacked(0.915, 0.92, 0.33)), "5", "iid, sign_flip")
    assert harmless.met is None
    assert verdict(harmless) == "no harm (+0.50)"


@pytest.mark.real
def test_the_best_baseline_is_named_and_what_was_not_run_is_said():
    ways = {"learned": 0.90, "krum": 0.906, "median": 0.89}
    results = made_up({split_cell("mnist", "iid", way): {"common_accuracy": value} for way, value in ways.items()})
    bar = found(results, "7", "iid, no attacker, common")
    assert bar.met is False
    assert "krum" in bar.demand
    assert bar.remark == "9 of 11 baselines not run"
    assert "0 of 1 met, 125 not run, some against few baselines" in tables.summary_table(bars(results), SEEDS)
    shown = tables.baseline_table(results, "mnist", graphs=False)
    assert "| cell | the rule | median | krum |" in shown
    assert "| iid, no attacker, common | 90.30 ± 0.16 | -1.00 | **+0.60** |" in shown
    assert shown.endswith(
        "Not run: fixed, data size, metropolis, trimmed mean, multi krum, geometric median, clipping, fedfomo, l2c."
    )


def test_a_baseline_is_compared_on_the_seeds_that_it_has():
    cells = {way: split_cell("mnist", "iid", way) for way in ("learned", "krum")}
    ours = made_up({cells["learned"]: {"common_accuracy": 0.9}})  # better from seed to seed
    theirs = made_up({cells["krum"]: {"common_accuracy": 0.904}}, seeds=(1, 2))
    shown = tables.baseline_table(Results({**ours.rows, **theirs.rows}), "mnist", graphs=False)
    assert "| 90.30 ± 0.16 | +0.40 (2) |" in shown


def test_the_best_baseline_is_the_best_on_the_seeds_that_all_of_them_have():
    cells = {way: split_cell("mnist", "iid", way) for way in ("learned", "krum", "median")}
    ours = made_up({cells["learned"]: {"common_accuracy": 0.9}})
    one = made_up({cells["krum"]: {"common_accuracy": 0.91}}, seeds=(1,))  # one good seed, which others do not have
    other = made_up({cells["median"]: {"common_accuracy": 0.904}}, seeds=(1, 2, 3))
    worse = made_up({cells["krum"]: {"common_accuracy": 0.89}}, seeds=(2, 3))
    bar = found(Results({**ours.rows, **one.rows, **other.rows, **worse.rows}), "7", "iid, no attacker, common")
    assert "median" in bar.demand
    few = found(Results({**ours.rows, **one.rows, **other.rows}), "7", "iid, no attacker, common")
    assert "krum" in few.demand
    assert list(few.measured.values) == [1]


def test_attackers_who_know_the_rule_are_judged_beside_the_bars():
    cells = {attack_cell(IID, way, attack): {} for way in ("fixed", "learned") for attack in (None, "noisy_copy")}
    numbers = {"common_accuracy": 0.85, "attacker_weight_late": 0.33, "own_accuracy": 0.9}
    results = made_up(cells | {attack_cell(IID, "learned", "noisy_copy"): numbers})
    shown = tables.variant_table(results, IID)
    assert "| noisy_copy | 90.30 ± 0.16 | 85.30 ± 0.16 | -5.00 ± 0.00 | **missed by 4.00** |" in shown
    assert "| step_flip | not run |" in shown
    assert all("noisy_copy" not in bar.setting for bar in bars(results))


def test_a_backdoor_is_shown_under_every_way_of_sharing():
    cells = {attack_cell(IID, "krum", "backdoor"): {"backdoor": 0.01}, attack_cell(IID, "fixed", None): {"backdoor": 0}}
    shown = tables.backdoor_table(made_up(cells)).splitlines()
    assert shown[0].startswith("|  | absent, fixed | absent, learned | fixed | learned | data size | metropolis |")
    columns = [each.strip() for each in shown[2].split("|")]
    assert columns[2] == "0.00 ± 0.00"
    assert columns[shown[0].split("|").index(" krum ")] == "1.00 ± 0.00"


def test_some_seeds_are_shown_as_some_seeds():
    partly = made_up({split_cell("mnist", "iid", "fixed"): {}}, seeds=(1, 2))
    assert "90.15 ± 0.07 (2 of 5 seeds)" in tables.common_table(partly, "mnist")


def test_the_best_choice_is_the_one_with_the_highest_mean():
    cells = {}
    for rate, score in ((0.05, 0.9), (0.1, 0.91)):
        cells |= {
            choose.held_out(cell, (rate, 0.3)): {"common_accuracy": score}
            for cell in choose.judged_by("mnist").values()
        }
    results = replace(made_up(cells, choose.SEEDS), seeds=choose.SEEDS)
    assert choose.best(choose.scores(results, ["mnist"])) == (0.1, 0.3)
    assert "The best: learning rate 0.1, λ 0.3. 14 choices" in choose.choice_table(results, DATASETS)


@pytest.mark.real
def test_the_most_important_runs_come_first_and_none_twice():
    runs = all_runs(ROWS, ("mnist", "fashion"))
    assert len(runs) == len(set(runs)) == len({key(run) for run in runs})
    first = [run.task.partition("-")[0] for run in runs[: len(seeded(row_cells("4", "mnist")))]]
    assert set(first) == {"mnist"}
    assert {run.members for run in runs[:700]} == {6, 1}


def test_every_attack_and_baseline_of_the_engine_is_in_the_table():
    runs = all_runs(ROWS, ("mnist",))
    assert {run.attack for run in runs} == {None, *KINDS}
    assert {run.sharing for run in runs} == set(SHARING)


@pytest.mark.parametrize("row", ROWS)
def test_the_command_of_a_run_makes_that_run(row, monkeypatch):
    made = []
    monkeypatch.setattr(
        "node.cli.simulate.one_result", lambda settings, options: made.append(settings) or Result({}, "")
    )
    for cell in [*row_cells(row, "mnist"), replace(SHARED, held_out=True, learning_rate=0.1, prior_strength=0.3)][::9]:
        assert CliRunner().invoke(simulate, command(cell).split()[2:]).exit_code == 0
        assert made[-1] == cell


@pytest.mark.real
def test_figures_are_drawn_of_what_there_is(tmp_path):
    assert draw_figures(Results({}), tmp_path) == []
    results = made_up({split_cell("mnist", "dirichlet:0.5", "learned"): {"bytes_per_member_round": 157000}})
    drawn = {figure.file: figure for figure in draw_figures(results, tmp_path)}
    assert {"rounds.png", "bytes.png"} <= set(drawn)
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert extent(results, drawn["rounds.png"].points) == (
        "Mean over 5 seeds, shaded ± standard deviation. Not run: MNIST, no sharing; MNIST, fixed; "
        "Fashion-MNIST, no sharing; Fashion-MNIST, fixed; Fashion-MNIST, learned."
    )


def test_the_points_of_a_plot_are_means_over_the_same_seeds_and_those_that_are_missing_are_named():
    one = made_up({members_cell(2, "learned"): {}, members_cell(64, "fixed"): {}}, seeds=(1,))
    more = made_up({members_cell(4, "learned"): {}}, seeds=(1, 2, 3))
    some = Results({**one.rows, **more.rows})
    assert extent(some, members_points()) == (
        "Mean over 1 seed. Not run: no sharing; fixed (2, 4, 8, 16, 32); learned (8, 16, 32, 64)."
    )
    members = next(figure for figure in figures(some) if figure.file == "members.png")
    assert [line.points for line in members.charts[0].lines] == [
        [(64, pytest.approx(90.1))], [(2, pytest.approx(90.1)), (4, pytest.approx(90.1))],
    ]  # fmt: skip
    whole = made_up({cell: {} for cells in members_points().values() for _, _, cell in cells}, seeds=(1, 2))
    assert extent(whole, members_points()) == "Mean over 2 seeds, shaded ± standard deviation."
