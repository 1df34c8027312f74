"""Whom each virtual member mixes: a random cohort drawn anew in each round, as in the node, or a fixed graph."""

import networkx

from node.errors import ConfigError
from node.session.cohort import draw_cohort
from node.simulation.settings import SimulationSettings, require_graph

Neighbors = dict[int, tuple[int, ...]]


def fixed_neighbors(settings: SimulationSettings) -> Neighbors | None:
    """The neighbours of each member in a fixed graph; None for random cohorts.

    Raises ConfigError for a graph that can't be.
    """
    kind, degree = require_graph(settings.topology)
    count = settings.members
    if kind == "random":
        return None
    if kind == "ring":
        graph = networkx.cycle_graph(count)
    elif degree >= count or degree * count % 2:
        raise ConfigError(
            f"topology {settings.topology!r} of {count} members can't be: "
            "take fewer neighbours than members, and an even number of one of the two"
        )
    else:
        graph = regular_graph(degree, count, settings.seed)
    return {member: tuple(sorted(set(graph[member]) - {member})) for member in range(count)}


def regular_graph(degree: int, count: int, seed: int) -> networkx.Graph:
    """A random graph with so many neighbours each; a dense one is what a sparse one leaves out.

    The algorithm (Steger and Wormald, 1999) tries again where it gets stuck, in dense graphs without end.
    """
    sparse = min(degree, count - 1 - degree)
    graph = networkx.random_regular_graph(sparse, count, seed=seed)
    return graph if sparse == degree else networkx.complement(graph)


def inputs_of(
    member: int, settings: SimulationSettings, graph: Neighbors | None, attackers: frozenset[int], round: int
) -> tuple[int, ...]:
    """Whom a member mixes in a round: itself and its neighbours, in ascending order."""
    if settings.sharing == "none":
        return (member,)
    if graph is not None:
        others = set(graph[member])
    else:
        size = settings.members - 1 if settings.cohort is None else settings.cohort
        others = set(draw_cohort(settings.seed, round, member, settings.members, size))
    if settings.attackers_absent:
        others -= attackers
    return tuple(sorted({member, *others}))
