"""What a finished run says in numbers: means over the honest members, curves over the rounds, one flat row per run.

Knows no files and no processes. All accuracies and weights are fractions.
"""

import dataclasses
import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from node.simulation.run import simulate
from node.simulation.settings import SimulatedRound, SimulationSettings

Row = dict[str, Any]
FIELDS = (  # of a run, for a person who asked for one
    "common_accuracy",
    "own_accuracy",
    "std_over_members",
    "attacker_weight",
    "seconds",
    "bytes_per_member_round",
)
EARLY = 10  # rounds in which the weight on attackers may still be learned


def settings_row(settings: SimulationSettings) -> Row:
    """The settings that decide the result, for JSON: all but where the data lie."""
    fields = dataclasses.asdict(settings)
    del fields["data_dir"]
    return fields


def key(settings: SimulationSettings) -> str:
    """A digest of the settings that decide the result; two runs with the same key are the same run."""
    canonical = json.dumps(settings_row(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def measure(settings: SimulationSettings) -> Row:
    """Runs a simulation to its end and gives its row; see `row`."""
    started = time.perf_counter()
    rounds = list(simulate(settings))
    return row(settings, rounds, time.perf_counter() - started)


def row(settings: SimulationSettings, rounds: Sequence[SimulatedRound], seconds: float) -> Row:
    """One run as JSON: `key`, `settings`, what `final` says, `curves` by round, `seconds`."""
    seen = [summary(finished) for finished in rounds]
    return {
        "key": key(settings),
        "settings": settings_row(settings),
        **final(rounds),
        "curves": {
            "common": [point["common_accuracy"] for point in seen],
            "own": [point["own_accuracy"] for point in seen],
            "attacker_weight": [point["attacker_weight"] for point in seen],
        },
        "seconds": round(seconds, 3),
    }


def final(rounds: Sequence[SimulatedRound]) -> Row:
    """A run's last `summary`, with `attacker_weight_late` (mean of the rounds after the tenth, None where there are
    none) and `bytes_per_member_round` (payload bytes that a member received, mean over members and rounds; all payloads
    of a round count as its largest, which says a little too much of codecs whose payloads differ in size).
    """
    weights = [summary(finished)["attacker_weight"] for finished in rounds[EARLY:]]
    return {
        **summary(rounds[-1]),
        "attacker_weight_late": _mean([weight for weight in weights if weight is not None]),
        "bytes_per_member_round": round(statistics.fmean(finished.bytes_per_member for finished in rounds)),
    }


def summary(finished: SimulatedRound) -> Row:
    """Means over the honest members after a round; None for what the task or the rule does not have.

    `loss`, `common_accuracy` (common test set) with its deviation `std_over_members`, `own_accuracy` (each member's own
    distribution of classes), `backdoor` (part of the stamped images taken for the attacker's class), `attacker_weight`
    (None under a rule that gives no row).
    """
    common = _values(finished, "accuracy")
    return {
        "loss": _mean(_values(finished, "loss")),
        "common_accuracy": _mean(common),
        "own_accuracy": _mean(_values(finished, "own_accuracy")),
        "std_over_members": statistics.pstdev(common) if common else None,
        "attacker_weight": finished.attacker_weight if any(finished.rows) else None,
        "backdoor": _mean(_values(finished, "backdoor")),
    }


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Mean and deviation (of the sample) over runs that differ in their seed, of every number in their rows."""
    names = [name for name, value in rows[0].items() if value is None or isinstance(value, float | int)]
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    return {
        "mean": {name: _mean(values) for name, values in columns.items()},
        "std": {name: _deviation(values) for name, values in columns.items()},
    }


def _values(finished: SimulatedRound, name: str) -> list[float]:
    return [metrics[name] for metrics in finished.metrics if name in metrics]


def _mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing, and of what is not finite, since JSON knows no NaN."""
    mean = statistics.fmean(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation: 0 of one value, None of nothing."""
    return statistics.stdev(values) if len(values) > 1 else 0.0 if values else None
