"""The newest finished rounds, for a status that is written twice a second."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class RoundLog:
    """Keeps the newest `count` rounds as JSON: a round is encoded once, not at each writing.

    Of `entries`, which a status file had, those that are no rounds are left out.
    """

    def __init__(self, count: int, entries: Iterable[Any] = ()) -> None:
        self._count = count
        self._encoded: dict[int, bytes] = {}  # by round, the newest last
        self.last: Mapping[str, Any] | None = None
        for entry in entries:
            if _is_round(entry):
                self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Takes in a round, in the place of what was known of it; of its metrics, what is no finite number is None."""
        entry = {**entry, "metrics": {name: _finite(value) for name, value in entry["metrics"].items()}}
        self._encoded.pop(entry["round"], None)
        self._encoded[entry["round"]] = json.dumps(entry).encode()
        if len(self._encoded) > self._count:
            del self._encoded[next(iter(self._encoded))]
        self.last = entry

    def as_json(self) -> Iterator[bytes]:
        """A JSON array of the rounds, the newest last, in pieces: as a whole it would grow with every round."""
        yield b"["
        for number, encoded in enumerate(self._encoded.values()):
            yield b", " + encoded if number else encoded
        yield b"]"


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_round(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("round"), int) and isinstance(entry.get("metrics"), dict)
