import pytest

from node.errors import ConfigError
from node.simulation.neighbors import fixed_neighbors, inputs_of
from node.simulation.settings import SimulationSettings


def settings(**options):
    return SimulationSettings(**{"members": 6, **options})


def test_a_ring_has_two_neighbours_each():
    ring = fixed_neighbors(settings(topology="ring"))
    assert ring == {i: tuple(sorted({(i - 1) % 6, (i + 1) % 6})) for i in range(6)}


def test_a_regular_graph_is_mutual_has_its_degree_and_is_the_same_twice():
    chosen = settings(topology="regular:4", members=20, seed=3)
    graph = fixed_neighbors(chosen)
    assert graph == fixed_neighbors(chosen)
    assert all(len(peers) == 4 and member not in peers for member, peers in graph.items())
    assert all(member in graph[peer] for member, peers in graph.items() for peer in peers)


@pytest.mark.parametrize("degree", [57, 58, 59])
def test_a_dense_regular_graph_is_drawn_at_once(degree):
    graph = fixed_neighbors(settings(topology=f"regular:{degree}", members=60))
    assert all(len(peers) == degree and member not in peers for member, peers in graph.items())
    assert all(member in graph[peer] for member, peers in graph.items() for peer in peers)


def test_random_cohorts_change_from_round_to_round():
    chosen = settings(members=20, cohort=5)
    assert fixed_neighbors(chosen) is None
    drawn = {inputs_of(3, chosen, None, frozenset(), round) for round in range(1, 6)}
    assert all(len(peers) == 6 and 3 in peers for peers in drawn)
    assert len(drawn) > 1


def test_absent_attackers_are_nobodys_neighbours():
    chosen = settings(topology="ring", attackers_absent=True)
    assert inputs_of(0, chosen, fixed_neighbors(chosen), frozenset({1}), 1) == (0, 5)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("star", "unknown topology 'star'"),
        ("regular:x", "unknown topology"),
        ("regular:5", "can't be"),
        ("regular:" + "9" * 5000, "unknown topology"),
    ],
)
def test_a_graph_that_can_not_be_is_a_clear_error(topology, message):
    with pytest.raises(ConfigError, match=message):
        fixed_neighbors(settings(topology=topology, members=5))
