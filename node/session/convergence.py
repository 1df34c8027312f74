"""When a coordinated session is good enough: a pure function of what was measured so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TINY = 1e-6  # an improvement by less is none


@dataclass(frozen=True, slots=True)
class Goal:
    """A metric of the model on the coordinator's validation data; no metric: the last round is the end."""

    metric: str = ""  # accuracy (more is better) or loss (less is better)
    target: float | None = None
    plateau: int = 0  # rounds without an improvement; 0: never mind


def why_end(goal: Goal, history: Sequence[Mapping[str, float]]) -> str:
    """Why there should be no further round, for people; empty if there should.

    A round in which the metric was no finite number, or was not measured, is left out.
    """
    name = f"validation_{goal.metric}"
    sign = -1.0 if goal.metric == "loss" else 1.0
    seen = [sign * metrics[name] for metrics in history if math.isfinite(metrics.get(name, math.nan))]
    if not goal.metric or not seen:
        return ""
    if goal.target is not None and seen[-1] >= sign * goal.target:
        return f"{goal.metric} {abs(seen[-1]):.4f} reached the target {goal.target:g}"
    if goal.plateau and len(seen) > goal.plateau:
        before, since = max(seen[: -goal.plateau]), max(seen[-goal.plateau :])
        if since <= before + TINY:
            return f"{goal.metric} did not improve for {goal.plateau} rounds"
    return ""
