"""What a member has spent of its privacy budget: on disk before anything that it pays for exists. Knows no tensors."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node.errors import ConfigError, HomeError
from node.files import write_atomically
from node.learning.accounting import Budget, History, Release, extended, history_fields, parse_history, spent

log = logging.getLogger(__name__)
KEYS = {"history", "round", "refused", "last", "lost"}


@dataclass
class Spending:
    """The account of one member in one session: every release that was paid for, over all restarts."""

    path: Path
    budget: Budget
    history: History = ()
    round: int = 0  # the last one that was looked at
    epsilon: float = 0.0
    refused: int = 0  # rounds that were not trained
    _last: str = ""  # the work that was paid last
    _lost: History = ()  # what a round costs, from the loss of a disk until the next round is paid
    _beyond: Release | None = field(default=None, repr=False)  # what the rest does not pay for

    @staticmethod
    def open(path: Path, budget: Budget) -> "Spending":
        """The account in a file; a fresh one if there is none. HomeError if it is damaged."""
        try:
            content = json.loads(path.read_bytes())
            _require_whole(content)
            history, last = parse_history(content["history"]), str(content["last"])
            round, refused, lost = int(content["round"]), int(content["refused"]), parse_history(content["lost"])
        except FileNotFoundError:
            return Spending(path, budget)
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise HomeError(f"the privacy account {path} is damaged ({error}): restore it from a backup") from error
        return Spending(path, budget, history, round, spent(history, budget), refused, last, lost)

    def pay(self, round: int, release: Release, work: str) -> bool:
        """Whether the budget pays for a release; if it does, that is on disk when this returns.

        `work` names all that the outcome depends on. The same work as before gives the same bytes: it is paid already.
        """
        if work == self._last:
            return True
        for lost in self._lost:  # rounds may have been revealed whose records never arrived: those before this one
            self.catch_up(round - 1, lost)
        self._lost = ()
        self.round = max(self.round, round)
        if release == self._beyond:
            self.refused += 1
            self._write()
            return False
        history = extended(self.history, release)
        epsilon = spent(history, self.budget)
        if epsilon > self.budget.epsilon:
            self._beyond, self.refused = release, self.refused + 1
            log.warning(
                "round %d is not trained: after it epsilon would be %.3f, the budget is %g (spent: %.3f); "
                "this node goes on serving and mixing", round, epsilon, self.budget.epsilon, self.epsilon,
            )  # fmt: skip
            self._write()
            return False
        self.history, self.epsilon, self._last = history, epsilon, work
        self._write()
        return True

    def catch_up(self, round: int, release: Release) -> None:
        """Counts rounds up to `round` that this disk doesn't know, but the ledger does, as trained if affordable.

        A disk that was lost, or restored from an old backup, has forgotten them; the world has not.
        """
        missing = round - self.round
        if missing <= 0:
            return
        low, high = 0, missing  # the most releases that the budget could pay for lies here
        while low < high:
            middle = (low + high + 1) // 2
            if spent(_repeated(self.history, release, middle), self.budget) <= self.budget.epsilon:
                low = middle
            else:
                high = middle - 1
        self.history, self.round = _repeated(self.history, release, low), round
        self.epsilon, self._lost = spent(self.history, self.budget), (release,)
        self._write()
        log.warning(
            "the privacy account in %s lacks %d rounds that may have been trained: epsilon is taken to be %.3f",
            self.path, missing, self.epsilon,
        )  # fmt: skip

    def _write(self) -> None:
        content = {
            "history": history_fields(self.history),
            "round": self.round,
            "refused": self.refused,
            "last": self._last,
            "lost": history_fields(self._lost),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path, json.dumps(content | {"sha256": _sum(content)}).encode())


def _require_whole(content: dict[str, object]) -> None:
    """ValueError unless the account has the sum that was written with it; earlier versions wrote none."""
    if set(content) != KEYS and content.pop("sha256", None) != _sum(content):
        raise ValueError("its SHA-256 is another one")


def _sum(content: Mapping[str, object]) -> str:
    """Of an account's fields: a bit that a disk flips in a digit leaves numbers that look sound."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _repeated(history: History, release: Release, times: int) -> History:
    if not times:
        return history
    return extended(history, Release(release.noise_multiplier, release.sample_rate, times * release.steps))
