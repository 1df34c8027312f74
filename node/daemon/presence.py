"""Who of the members is there: active on the ledger, and not away for so long that it counts as lost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from node.session.ports import Directory


@dataclass
class Presence:
    """Remembers when each member was last connected; one that was not seen yet has its time from the start on."""

    directory: Directory
    connected: Callable[[], frozenset[str]]
    own: int
    patience_s: float
    _seen: dict[int, float] = field(default_factory=dict)  # by index; trio's clock

    def look(self, now: float) -> Mapping[int, str]:
        """The members that are connected now: peer ids by index."""
        found = {self.directory.index_of(peer): peer for peer in self.connected()}
        reachable = {index: peer for index, peer in found.items() if index is not None and index != self.own}
        for index in range(self.directory.count()):
            if index in reachable or index not in self._seen:
                self._seen[index] = now
        return reachable

    def present(self, now: float) -> frozenset[int]:
        """Who counts as there, this node always among them."""
        active = (index for index in range(self.directory.count()) if self.directory.peer_of(index) is not None)
        return frozenset(
            {self.own, *(index for index in active if now - self._seen.get(index, now) <= self.patience_s)}
        )
