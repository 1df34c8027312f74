"""What the node says about itself: `status.json` in its home, for `fl-node status`, the live table and reports."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from node.home import Home, read_status, write_atomically
from node.messages import Traffic
from node.session.gossip import RoundReport

KEEP_ROUNDS = 1000


@dataclass
class Status:
    """The node's state as one JSON object; `write` puts it on disk."""

    home: Home
    fixed: Mapping[str, Any]  # identity, session, member
    state: str = "starting"
    round: int = 0
    peers: list[dict[str, Any]] = field(default_factory=list)
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    warning: str | None = None

    def resume(self) -> None:
        """Takes over the finished rounds that an earlier run of the same session wrote."""
        before = read_status(self.home)
        if before.get("session") == self.fixed.get("session"):
            self.rounds = list(before.get("finished_rounds", []))[-KEEP_ROUNDS:]

    def observe(self, event: str, value: RoundReport | int) -> None:
        """Takes in what the session tells."""
        if isinstance(value, RoundReport):
            self.rounds = [entry for entry in self.rounds if entry["round"] != value.round][1 - KEEP_ROUNDS :]
            self.rounds.append(asdict(value))
        else:
            self.state, self.round = event, value

    def as_json(self) -> dict[str, Any]:
        """The whole state."""
        return {
            **self.fixed,
            "state": self.state,
            "round": self.round,
            "bytes_in": sum(traffic.bytes_in for traffic in self.traffic.values()),
            "bytes_out": sum(traffic.bytes_out for traffic in self.traffic.values()),
            "peers": self.peers,
            "records": self.records,
            "finished_rounds": self.rounds,
            "warning": self.warning,
            "updated": time.time(),
        }

    def write(self) -> None:
        """Replaces `status.json`."""
        write_atomically(self.home.status, json.dumps(self.as_json()).encode())
