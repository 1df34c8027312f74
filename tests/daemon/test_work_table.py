from io import StringIO

import pytest
from rich.console import Console

from node.dashboard.tables import status_view, trust_row

WORK = {
    "member": 3,
    "round": 7,
    "steps": 12,
    "examples": 768,
    "download_s": 0.25,
    "training_s": 1.5,
    "upload_s": 0.125,
    "round_trip_s": 2.0,
    "full": 48,
    "next_steps": 15,
}


def shown(rounds):
    console = Console(width=200, record=True, file=StringIO())
    console.print(status_view({"finished_rounds": rounds}))
    return console.export_text()


def test_a_coordinators_status_shows_what_each_worker_did_and_how_long_it_took():
    text = shown([{"round": 7, "work": [WORK]}])
    row = next(line for line in text.splitlines() if "768" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "3",
        "12",
        "48",
        "15",
        "768",
        "0.25",
        "1.50",
        "0.12",
        "2.00",
    ]


@pytest.mark.parametrize(("told", "cells"), [({"full": 48, "next_steps": 0}, ["48", "48"]), ({}, ["–", "–"])])
def test_who_was_not_measured_is_asked_for_a_whole_round_and_what_is_not_known_is_left_open(told, cells):
    before = {name: value for name, value in WORK.items() if name not in ("full", "next_steps")}
    row = next(line for line in shown([{"round": 7, "work": [{**before, **told}]}]).splitlines() if "768" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][2:4] == cells


def test_a_status_without_workers_has_no_such_table():
    assert "round trip" not in shown([{"round": 7}])


@pytest.mark.parametrize(
    ("weights", "cells"),
    [((0, 400, 311, 97), ["0", "50", "38", "12"]), ((0, 32768, 0, 32767), ["0", "50", "·", "50"])],
)
def test_a_row_is_shown_in_percent_of_its_own_sum(weights, cells):
    lags = [0, 0, 0 if weights[2] else -128, 0]
    inputs = [{"member": m, "weight": w, "lag": lag} for m, (w, lag) in enumerate(zip(weights, lags, strict=True))]
    assert trust_row(inputs).split() == cells
