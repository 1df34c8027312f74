"""Which snapshots a node may release: a policy over labels and rounds. Knows no backend, and the ledger as CIDs."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from node.errors import ConfigError, StorageError
from node.storage.ports import Collected, Pin, Snapshots


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays: the newest `last` rounds of each member, each round divisible by `every` (0: none), and `named`.

    `named` keeps every snapshot that the ledger names. Pins without a label were made by hand, and always stay.
    """

    last: int = 3
    every: int = 0
    named: bool = True

    def __post_init__(self) -> None:
        if self.last < 1 or self.every < 0:
            raise StorageError(
                f"retention last={self.last}, every={self.every}: keep at least 1, every 0 rounds or more"
            )


def parse_retention(text: str) -> Retention | None:
    """`all` (None), `last:N`, `every:K` (and the newest), or both with a comma. ConfigError for anything else."""
    if text.strip() == "all":
        return None
    chosen: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        if name not in ("last", "every") or name in chosen or not number.isdecimal() or not 0 < int(number) < 2**31:
            raise ConfigError(f"snapshots to keep {text!r}: write all, last:N, every:K or last:N,every:K")
        chosen[name] = int(number)
    return Retention(chosen.get("last", 1), chosen.get("every", 0), named=False)


@dataclass(frozen=True, slots=True)
class Retained:
    """What applying a policy released, and what that freed (nothing, if garbage was not to be collected)."""

    released: tuple[str, ...]
    collected: Collected


def expired(pins: Sequence[Pin], retention: Retention, named: Collection[str] = ()) -> list[Pin]:
    """The pins that the policy does not keep, oldest first."""
    series: dict[tuple[int, int], set[int]] = defaultdict(set)  # a kill may leave two snapshots of one round
    for pin in pins:
        if pin.label is not None:
            series[pin.label.session, pin.label.member].add(pin.label.round)
    oldest_kept = {key: sorted(rounds)[-retention.last :][0] for key, rounds in series.items()}

    def stays(pin: Pin) -> bool:
        if pin.label is None or (retention.named and pin.cid in named):
            return True
        label = pin.label
        milestone = retention.every > 0 and label.round % retention.every == 0
        return milestone or label.round >= oldest_kept[label.session, label.member]

    return [pin for pin in pins if not stays(pin)]


async def retain(
    snapshots: Snapshots, retention: Retention, named: Collection[str] = (), collect: bool = True
) -> Retained:
    """What was released. Pass `collect=False` for a Kubo daemon: it may hold other things that the user wants."""
    released = expired(await snapshots.pins(), retention, named)
    for pin in released:
        await snapshots.unpin(pin.cid)
    collected = await snapshots.gc() if collect and released else Collected(0, 0)
    return Retained(tuple(pin.cid for pin in released), collected)
