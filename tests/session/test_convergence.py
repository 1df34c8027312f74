"""When a coordinated session is good enough, of what was measured."""

import math

import pytest

from node.session.convergence import Goal, why_end


def losses(*values):
    return [{"validation_loss": value} for value in values]


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_a_round_whose_metric_is_no_finite_number_says_nothing(nothing):
    assert why_end(Goal("loss", plateau=1), losses(nothing, 0.5, 0.5, 0.5)) == "loss did not improve for 1 rounds"
    assert why_end(Goal("loss", plateau=1), losses(0.5, nothing)) == ""
    assert why_end(Goal("loss", target=0.1), losses(nothing)) == ""
    assert why_end(Goal("loss", target=0.1), losses(0.5, nothing, 0.1)) == "loss 0.1000 reached the target 0.1"
