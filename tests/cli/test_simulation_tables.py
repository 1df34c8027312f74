"""Tables of simulations, as people read them."""

from rich.console import Console

from node.cli.simulation_tables import runs_table


def lines_of(table):
    console = Console(width=160)
    with console.capture() as lines:
        console.print(table)
    return lines.get().splitlines()


def row(**settings):
    numbers = {"common_accuracy": 0.9, "own_accuracy": 0.8, "std_over_members": 0.0123, "attacker_weight": 0.0}
    return {"settings": settings, **numbers}


def test_every_column_of_percent_says_so():
    shown = lines_of(runs_table([row(seed=1)]))
    assert "std over members (%)" in shown[1]
    assert "1.23" in shown[3]


def test_a_setting_stands_there_as_it_was_written():
    tasks = ["/runs [/old]/task.py:task", "/runs/:cat:/[bold]task.py:task"]
    shown = "\n".join(lines_of(runs_table([row(task=task) for task in tasks])))
    for task in tasks:
        assert task in shown
