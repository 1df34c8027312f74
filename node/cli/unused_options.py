"""Which options of `fl-node session create` and `fl-node simulate` are taken no notice of: given, each is refused."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from node.errors import ConfigError
from node.learning.aggregation import UNDISCOUNTED, USED_BY
from node.wishes import CoordinationWishes

CHOICES = [each.name for each in fields(CoordinationWishes)]  # options of coordinated sessions
OF_GOSSIP = ("cohort", "objective")
OF_GRADIENTS = ("accumulate", "momentum", "schedule")


def require_use(choices: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that was given, and that such a session would take no notice of."""
    given = given_options()
    if choices["topology"] == "coordinated":
        _require_coordinated_use(given, choices)
    else:
        _refuse(given, CHOICES, "is for sessions with a coordinator: add --topology coordinated")
    if choices["data"] != "served":
        _refuse(given, ("split_bytes",), "is for served data: add --data served")
    if choices["stratified"] and "split" in given:
        raise ConfigError(
            f"--stratified is --split stratified, and --split {choices['split']} was given: leave one of them out"
        )


def _require_coordinated_use(given: Mapping[str, str], choices: Mapping[str, Any]) -> None:
    rule = choices["rule"]
    _refuse(given, OF_GOSSIP, "is for gossip sessions, a coordinator decides alone: add --topology gossip")
    if choices["update"] != "gradients":
        _refuse(given, OF_GRADIENTS, "is for gradients: add --update gradients and --rule sgd or adam")
    for name, users in USED_BY.items():
        if name in given and rule not in users:
            raise ConfigError(
                f"{given[name]} is for --rule {' or '.join(sorted(users))}: {rule} takes no notice of it; choose "
                f"{'that rule' if len(users) == 1 else 'one of them'}, or leave it out"
            )
    if rule in UNDISCOUNTED and choices["late"] == "weight" and "late" in given:
        raise ConfigError(
            f"--late weight: the rule {rule} gives nobody a weight by its lag, and counts a late update like any "
            "other; choose --late drop, or leave it out"
        )
    if choices["late"] == "drop" and "staleness" in given:
        raise ConfigError(
            f"--staleness {choices['staleness']} is for late updates that count: leave it out, or --late drop"
        )


def require_simulated_use(choices: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that was given, and that the simulation of a run would take no notice of."""
    given, typed = given_options(), typed_options()
    _refuse(typed, ("out",), "is for the rows of a sweep: add --sweep, take --csv for a table")
    if choices["task"] is not None:
        _refuse(given, ("dataset", "model"), f"says what --task {choices['task']} says: take one of the two")
    if choices["topology"] != "random":
        _refuse(
            given, ("cohort",), f"is for --topology random, {choices['topology']} has neighbours of its own: add that"
        )
    if "attackers" not in given:
        _refuse(given, ("attack",), f"{choices['attack']} needs somebody who does it: add --attackers")
    if not choices["attackers"]:
        _refuse(given, ("attackers_absent",), "needs attackers who could be there: add --attack and --attackers")
    if choices["sharing"] != "learned":
        # the default objective may be said: the experiments' commands do
        of_rows = ("prior_strength",) if choices["objective"] == "common" else ("objective", "prior_strength")
        _refuse(given, of_rows, f"is for learned rows, not {choices['sharing']}: add --sharing learned")
    if choices["sharing"] == "none" and choices["topology"] != "random":
        _refuse(given, ("topology",), "is for members who share, with --sharing none nobody does: choose another one")
    if len(set(choices["seeds"])) == 1:
        _refuse(typed, ("ray", "processes"), "is for several runs: add a --seed for each, take --sweep")
    require_one_place(choices)


def require_one_place(choices: Mapping[str, Any]) -> None:
    """Raises ConfigError for a number of processes that was typed where Ray computes the runs."""
    if choices["ray"]:
        _refuse(typed_options(), ("processes",), "is for this machine alone, --ray has as many as its CPUs: choose one")


def given_options() -> dict[str, str]:
    """The options of the command that runs which were given: `{name: --option}`."""
    context = click.get_current_context()
    return {
        str(each.name): each.opts[0]
        for each in context.command.params
        if isinstance(each, click.Option)
        and context.get_parameter_source(str(each.name)) is not ParameterSource.DEFAULT
    }


def typed_options() -> dict[str, str]:
    """Those of them that do not come from the settings file, which is for other runs too."""
    source = click.get_current_context().get_parameter_source
    return {name: option for name, option in given_options().items() if source(name) is not ParameterSource.DEFAULT_MAP}


def _refuse(given: Mapping[str, str], names: tuple[str, ...] | list[str], what: str) -> None:
    for name in names:
        if name in given:
            raise ConfigError(f"{given[name]} {what}, or leave it out")
