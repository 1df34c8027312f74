"""The node and the simulation weigh and mix by one rule: the same updates in, the same rows and the same model out."""

import numpy as np
import pytest
import torch

from node.learning.many import Pool
from node.learning.trust import TrustSettings
from node.session.ports import Contribution
from node.simulation.mixing import Mixer
from node.simulation.settings import SimulationSettings
from tests.daemon.test_misbehavior import ATTACKER, MEMBERS, learner, weights_of

ROUNDING = 2  # of 65,535: a mapped step rounds otherwise than a single one


@pytest.mark.real
@pytest.mark.parametrize("objective", ["common", "personal"])
async def test_a_node_gets_the_rows_and_the_model_that_the_simulation_computes(objective):
    learners = [learner(member, "sign_flip" if member == ATTACKER else None) for member in range(MEMBERS)]
    for one in learners:
        one.settings = TrustSettings(objective)
    honest = [member for member in range(MEMBERS) if member != ATTACKER]
    settings = SimulationSettings(members=MEMBERS, sharing="learned", objective=objective)
    mixer = Mixer(learners[0].learner, settings, Pool.of([one.data.validation for one in learners]), [150] * MEMBERS)
    for round in (1, 2, 3):
        before = torch.stack([one.flat for one in learners])
        sent = [await one.train(round) for one in learners]
        updates = torch.stack([learners[0].decode(each.payload) for each in sent])
        came = [Contribution(member, round, each.payload) for member, each in enumerate(sent)]
        mixed = [await one.mix(round, sent[i].payload, [*came[:i], *came[i + 1 :]]) for i, one in enumerate(learners)]
        chances = [one.seat.generator("trust", round) for one in learners]
        peers = dict.fromkeys(honest, tuple(range(MEMBERS)))
        simulated = mixer(round, peers, before, updates, chances)
        for row, flat, member in zip(simulated.rows, simulated.flats, honest, strict=True):
            found = weights_of(mixed, member)
            assert found == {peer: pytest.approx(weight, abs=ROUNDING) for peer, weight in row.items()}
            assert found[ATTACKER] == 0
            torch.testing.assert_close(learners[member].flat, flat, atol=1e-3, rtol=1e-4)
            own = [weight for peer, weight in found.items() if peer != ATTACKER]
            assert bool(np.ptp(own) > 100) is (objective == "personal"), "equal rows would prove less"
