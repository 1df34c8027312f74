"""How much of a privacy budget is spent: Opacus' accountants over the history of what was released. Knows no model.

The whole state is the history, plain numbers: keep it with the update that it pays for, and a restart changes nothing.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.errors import ConfigError

ACCOUNTANTS = ("prv", "rdp")


@dataclass(frozen=True, slots=True)
class Release:
    """So many steps of the Poisson-subsampled Gaussian mechanism (Abadi et al., arXiv:1607.00133)."""

    noise_multiplier: float  # standard deviation of the noise / clipping norm
    sample_rate: float  # chance of each example to be in a batch
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ConfigError(f"noise multiplier {self.noise_multiplier}: must be a positive number")
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(f"sample rate {self.sample_rate}: must be above 0, and 1 at most")
        if self.steps < 1:
            raise ConfigError(f"{self.steps} private steps: must be at least 1")


History = tuple[Release, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a member may spend on one example of its data: (epsilon, delta)-differential privacy, add or remove one.

    `prv` (Gopi et al., arXiv:2106.02848) is tighter; `rdp` (Mironov et al., arXiv:1908.10530) also takes full batches.
    """

    epsilon: float
    delta: float
    accountant: str = "prv"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"epsilon {self.epsilon}: must be a positive number")
        if not 0 < self.delta < 1:
            raise ConfigError(f"delta {self.delta}: must lie between 0 and 1, and below 1 / examples")
        if self.accountant not in ACCOUNTANTS:
            raise ConfigError(f"unknown accountant {self.accountant!r}: choose one of {', '.join(ACCOUNTANTS)}")


def extended(history: History, release: Release) -> History:
    """The history with one more release; equal ones in a row are one entry, so that it stays short."""
    if history and _same_mechanism(history[-1], release):
        steps = history[-1].steps + release.steps
        return (*history[:-1], Release(release.noise_multiplier, release.sample_rate, steps))
    return (*history, release)


def spent(history: History, budget: Budget) -> float:
    """Epsilon at the budget's delta after these releases: an upper bound, exactly what Opacus' accountant says.

    Raises ConfigError where the accountant cannot say.
    """
    if not history:
        return 0.0
    accountant: Any = _opacus().create_accountant(mechanism=budget.accountant)
    accountant.history = [(r.noise_multiplier, r.sample_rate, r.steps) for r in history]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # RDP: a wider range of orders would give a smaller bound
        warnings.simplefilter("error", RuntimeWarning)  # PRV: numbers beyond its grid
        try:
            epsilon = float(accountant.get_epsilon(delta=budget.delta))
        except (RuntimeWarning, RuntimeError, ValueError, OverflowError) as error:
            raise ConfigError(_cannot_say(budget, history[-1], str(error))) from error
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(_cannot_say(budget, history[-1], f"it gave {epsilon}"))
    return epsilon


def affords(history: History, release: Release, budget: Budget) -> bool:
    """Whether one more release stays within the budget."""
    return spent(extended(history, release), budget) <= budget.epsilon


def calibrate(budget: Budget, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier (to 0.01 of epsilon) with which `steps` steps stay within the budget.

    `steps` are those of the whole session: rounds × steps a round. Raises ConfigError where there is none.
    """
    Release(1.0, sample_rate, steps)
    utils = _opacus().utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            multiplier = utils.get_noise_multiplier(
                target_epsilon=budget.epsilon,
                target_delta=budget.delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant=budget.accountant,
                epsilon_tolerance=min(0.01, budget.epsilon / 100),
            )
        except (RuntimeWarning, RuntimeError, ValueError, OverflowError) as error:
            raise ConfigError(_cannot_say(budget, Release(1.0, sample_rate, steps), str(error))) from error
    return float(multiplier)


def history_fields(history: History) -> list[list[float]]:
    """The history as plain numbers, for a checkpoint."""
    return [[release.noise_multiplier, release.sample_rate, release.steps] for release in history]


def parse_history(fields: Sequence[Sequence[float]]) -> History:
    """The history of `history_fields`. Raises ConfigError when it is not one."""
    try:
        return tuple(Release(float(noise), float(rate), int(steps)) for noise, rate, steps in fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"privacy history cannot be read ({error}): restore the home directory") from error


def _opacus() -> Any:
    """Opacus' accountants; importing them takes seconds. Raises ConfigError where Opacus is not installed."""
    try:
        from opacus import accountants
        from opacus.accountants import utils
    except ImportError as error:
        raise ConfigError(f"a privacy budget needs Opacus ({error}): pip install 'fl-node[privacy]'") from error
    assert utils is accountants.utils
    return accountants


def _same_mechanism(one: Release, other: Release) -> bool:
    return (one.noise_multiplier, one.sample_rate) == (other.noise_multiplier, other.sample_rate)


def _cannot_say(budget: Budget, release: Release, reason: str) -> str:
    what = f"{release.steps} steps at sample rate {release.sample_rate:g} and noise {release.noise_multiplier:g}"
    cure = "choose the accountant rdp" if budget.accountant == "prv" else "choose more noise or fewer steps"
    return f"the accountant {budget.accountant} has no epsilon for {what} ({reason.splitlines()[0]}): {cure}"
