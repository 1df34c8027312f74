"""How far a simulation is: a bar on a terminal, else lines now and then."""

import io
import sys

import pytest
from rich.console import Console

from node.cli.progress import bar, in_bar, in_lines, watched


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def ends(watch, clock, seconds, total, first=0):
    """Something is over after each so many seconds."""
    watch(first, total)
    for over, took in enumerate(seconds, first + 1):
        clock.now += took
        watch(over, total)


@pytest.mark.parametrize(
    ("first", "seconds", "left"),
    [
        (0, [100], 900),  # from the first on
        (0, [100, 100, 100], 700),  # however long they take
        (0, [100, 0, 0, 0, 100, 0, 0, 0], 50),  # on four processes
        (5, [100], 400),  # those that were on file took no time
    ],
)
def test_the_bar_estimates_from_all_that_is_over(clock, first, seconds, left):
    with bar(Console(file=io.StringIO(), force_terminal=True), clock) as shown:
        ends(in_bar(shown, "run"), clock, seconds, 10, first)
        assert shown.tasks[0].time_remaining == left


def test_without_a_terminal_a_line_at_most_every_half_minute(clock, capsys):
    ends(in_lines("run", clock), clock, [10, 10, 10, 10, 300, 1, 1], 12, first=2)
    assert capsys.readouterr().err.splitlines() == [
        "5 of 12 runs, about 70 s left",
        "7 of 12 runs, about 6 min left",
    ]


def test_what_takes_hours_is_told_in_hours(clock, capsys):
    ends(in_lines("run", clock), clock, [3600], 5)
    assert capsys.readouterr().err == "1 of 5 runs, about 4.0 h left\n"


def test_the_end_is_told_by_the_answer_alone(clock, capsys):
    with watched("round", clock) as watch:
        ends(watch, clock, [100], 1)
    assert capsys.readouterr().err == ""


def test_a_standard_error_that_was_closed_is_no_terminal(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with watched("run", clock) as watch:
        ends(watch, clock, [100], 2)
