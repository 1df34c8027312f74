"""Five real nodes, one of them an attacker, come to the same end as the simulation with the same settings."""

from dataclasses import replace

import pytest

from node.simulation.results import measure
from scripts.experiments.nodes import node_cell, run_nodes
from tests.nodes import TASK


@pytest.mark.slow
def test_real_nodes_withstand_an_attacker_as_the_simulation_says():
    cell = replace(node_cell("sign_flip", rounds=6), task=f"{TASK}:task", seed=2)
    real, simulated = run_nodes(cell), measure(cell)
    assert len(real["members"]) == 4
    assert real["attacker"] not in real["members"]
    assert real["attacker_weight"] < 0.01
    assert simulated["attacker_weight"] < 0.01
    assert real["loss"] == pytest.approx(simulated["loss"], abs=2e-3)  # the best possible is 0.01
    fixed = measure(replace(cell, sharing="fixed"))
    assert fixed["loss"] > 10 * real["loss"]
