"""What a worker hears of its coordinator: its newest model, whether a newer one is there, and whether it is gone.

It waits for announcements, and asks only after silence. Knows nothing of training and of records.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from node.errors import NetworkError
from node.messages import Announcement
from node.session.board import Board
from node.session.coordinated import MODEL_CODEC, CoordinatedPorts, Election
from node.session.notes import end_of
from node.session.succession import Term

LOST_S = 10.0  # of silence, before the coordinator is asked whether an announcement got lost
LOOK_S = 0.5


@dataclass(slots=True)
class Following:
    """A worker's view of its coordinator. What waits ends when `leaves` says that the worker leaves off.

    Every wait raises NetworkError when there is no coordinator for too long.
    """

    ports: CoordinatedPorts
    board: Board
    coordinator: Callable[[], int | None]  # the coordinator's index, once the ledger has it
    patience_s: float  # without a coordinator
    election: Election | None  # of a session that elects the next coordinator
    leaves: Callable[[], bool]
    alone: float | None = None  # since when it waits without a coordinator; None while it does not

    def newest(self) -> Announcement | None:
        """The newest model that the coordinator has announced."""
        coordinator = self.coordinator()
        newest = None if coordinator is None else self.board.newest(coordinator)
        first = 1 if self.election is None else self.election.succession.current.first
        return newest if newest is not None and newest.codec == MODEL_CODEC and newest.round >= first else None

    async def next_model(self, last: int) -> Announcement | None:
        """The newest model of a round after `last`; None when the worker leaves off."""
        silent = trio.current_time()
        while not self.leaves():
            newest = self.newest()
            if newest is not None and newest.round > last:
                return newest
            self._require_coordinator()
            if trio.current_time() - silent > LOST_S:
                await self._ask()
                silent = trio.current_time()
            with trio.move_on_after(LOOK_S):
                await self.board.wait_for_change()
        return None

    def is_here(self) -> bool:
        """Whether the coordinator is connected."""
        return self._peer() in self.ports.peers.connected()

    def is_superseded(self, round: int) -> bool:
        """Whether there is a model after that of a round."""
        newest = self.newest()
        return newest is not None and newest.round > round

    def called_off(self, round: int) -> str:
        """Why nothing comes of a round whose model was given out; empty if something does."""
        newest = self.newest()
        return end_of(newest.note) if newest is not None and newest.round == round else ""

    async def until_superseded(self, round: int, then: Callable[[], object] = lambda: None) -> None:
        """Calls `then` once there is a newer model, or the worker leaves off."""
        while not self.leaves() and not self.is_superseded(round):
            self._require_coordinator()
            with trio.move_on_after(LOOK_S):
                await self.board.wait_for_change()
        then()

    async def is_recorded(self, model: Announcement) -> bool:
        """Whether the ledger has a model, for which it waits; at once where there are no elections.

        False if the worker leaves off, there is a newer model, or another member coordinates by then.
        """
        if self.election is None:
            return True
        while not self.leaves():
            await self.election.succession.refresh()
            if self.newest() != model:
                return False
            term = self.election.succession.current
            if term.newest > model.round or (term.newest, term.digest) == (model.round, model.digest):
                return True
            self._require_coordinator()
            await trio.sleep(LOOK_S)
        return False

    async def interrupt(self, round: int, then: Callable[[], object]) -> None:
        """The same beside work, which is no waiting: it may take longer than there is a coordinator."""
        while not self.leaves() and not self.is_superseded(round):
            self.alone = None
            with trio.move_on_after(LOOK_S):
                await self.board.wait_for_change()
        then()

    async def until_over(self, then: Callable[[], object]) -> None:
        """Calls `then` once there is no further round, or the worker leaves off."""
        while not self.leaves() and not self._says_end():
            self._require_coordinator()
            await trio.sleep(LOOK_S)
        then()

    async def vacancy(self, election: Election) -> Term:
        """The coordinator that is gone: silent, here and on the ledger, until it is this member's turn."""
        seen = trio.current_time()
        while True:
            await trio.sleep(LOOK_S)
            term, now = election.succession.current, trio.current_time()
            if self.is_here():
                seen = now
            elif now - seen >= election.wait_s:
                read = await election.succession.refresh()
                if election.succession.current != term:
                    seen = trio.current_time()  # a sign of life, or another coordinator
                elif read and term.can_be_succeeded and now - seen >= election.wait_s * (1 + election.place(term)):
                    return term

    def _require_coordinator(self) -> None:
        now, patience_s = trio.current_time(), self.patience_s
        if self.election is not None:
            patience_s += self.election.wait_s * (1 + self.ports.directory.count())
        if self.is_here():
            self.alone = None
        elif self.alone is None:
            self.alone = now
        elif now - self.alone > patience_s:
            raise NetworkError(
                f"no coordinator for {patience_s:g} s: it has to be running and reachable (--peers); "
                "start this node again then, it goes on where it was"
            )

    def _peer(self) -> str | None:
        coordinator = self.coordinator()
        return None if coordinator is None else self.ports.directory.peer_of(coordinator)

    async def _ask(self) -> None:
        peer = self._peer()
        if peer is not None and peer in self.ports.peers.connected():
            await self.ports.peers.ask(peer)

    def _says_end(self) -> bool:
        newest = self.newest()
        return newest is not None and bool(end_of(newest.note))
