"""What the node says about itself: `status.json` in its home, for `fl-node status`, the live table and reports."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from typing import Any

import trio

from node.daemon.parts import Registration
from node.daemon.prepare import Prepared
from node.daemon.recording import Recorder
from node.daemon.replication import Replication
from node.daemon.round_log import RoundLog
from node.errors import HomeError
from node.files import clear_temporaries, write_atomically
from node.home import KEEP_ROUNDS, Home, read_status
from node.messages import Traffic
from node.network.service import Network
from node.session.gossip import RoundReport

WRITE_S = 0.5

log = logging.getLogger(__name__)


class Status:
    """The node's state as one JSON object; `write` puts it on disk."""

    def __init__(
        self, home: Home, prepared: Prepared, network: Network, recorder: Recorder, replication: Replication
    ) -> None:
        self.home, self._prepared, self._network, self._recorder = home, prepared, network, recorder
        self.replication = replication
        self.state, self.round = "starting", 0
        self.rounds = RoundLog(KEEP_ROUNDS)
        self.metrics_url: str | None = None
        self.registration: Callable[[], Registration | None] = lambda: None

    def resume(self) -> None:
        """Takes over the finished rounds that an earlier run of the same session wrote, if they are still whole.

        The status is not synced: where the machine lost power it may be empty or torn, and nothing depends on it.
        """
        clear_temporaries(self.home.path, self.home.status.name)
        try:
            before = read_status(self.home)
        except HomeError as error:
            log.warning("%s; what was in it is begun anew", error)
            return
        session, rounds = before.get("session"), before.get("finished_rounds")
        if isinstance(session, dict) and session.get("id") == self._session()["id"] and isinstance(rounds, list):
            self.rounds = RoundLog(KEEP_ROUNDS, rounds)

    def observe(self, event: str, value: RoundReport | int) -> None:
        """Takes in what the session tells."""
        if isinstance(value, RoundReport):
            self.rounds.add(asdict(value))
        else:
            self.state, self.round = event, value

    def now(self) -> dict[str, Any]:
        """All but the finished rounds."""
        traffic = self._network.traffic()
        records = self._recorder.state
        return {
            "session": self._session(),
            "member": self._prepared.directory.own_index,
            "peer_id": self._network.peer_id,
            "account": self._prepared.account.address,
            "addresses": self._network.addresses(),
            "metrics_url": self.metrics_url,
            "state": self.state,
            "round": self.round,
            "rounds": self._prepared.opened.session.rounds,
            "bytes_in": sum(one.bytes_in for one in traffic.values()),
            "bytes_out": sum(one.bytes_out for one in traffic.values()),
            "peers": self._peers(),
            "strangers": self._strangers(),
            "refused": {**self._network.standings.refused, "updates": self._prepared.learner.refused_updates},
            "records": asdict(records),
            "snapshots": self.replication.as_json(),
            **self._privacy(),
            **self._registration(),
            "updated": time.time(),
        }

    def _privacy(self) -> dict[str, Any]:
        private = self._prepared.learner.private
        return {} if private is None else {"privacy": private.as_json()}

    def _registration(self) -> dict[str, Any]:
        registered = self.registration()
        return {} if registered is None else {"registration": asdict(registered)}

    def _session(self) -> dict[str, Any]:
        session = self._prepared.opened.session
        return {"id": f"{self._prepared.opened.session_id:016x}", "name": session.name, "task": session.task}

    def _strangers(self) -> dict[str, int]:
        found = self._network.strangers()
        counts = {"count": found.count, "connected": found.connected, "banned": found.banned}
        return counts | asdict(found.traffic)

    def _peers(self) -> list[dict[str, Any]]:
        connected, directory = self._network.connected(), self._prepared.directory
        traffic = self._network.traffic_of_members()
        zero = Traffic(0, 0)
        return [
            {
                "peer_id": peer,
                "member": directory.index_of(peer),
                "connected": peer in connected,
                "link": self._network.link(peer),
                "latency_ms": _milliseconds(self._network.latency(peer)) if peer in connected else None,
                "score": round(self._network.standings.score(peer), 1),
                **asdict(traffic.get(peer, zero)),
            }
            for peer in sorted(connected | set(traffic))
        ]

    def write(self) -> None:
        """Replaces `status.json`."""
        now = json.dumps(self.now()).encode().removesuffix(b"}")
        pieces = chain([now, b', "finished_rounds": '], self.rounds.as_json(), [b"}"])
        write_atomically(self.home.status, pieces, durable=False)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)


async def keep_writing(status: Status) -> None:
    """Writes the status twice a second, for ever."""
    while True:
        status.write()
        await trio.sleep(WRITE_S)
