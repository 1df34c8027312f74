"""Whether the others outrun this member, and with which round it goes on then; knows no clock."""

import statistics
from collections import deque
from dataclasses import dataclass, field

from node.session.board import Board
from node.session.ports import Directory, Peers

CATCH_UP = 4  # rounds in which a member that is behind is to have caught up by itself
VOICES = 2  # others at least that are connected, where there are as many; and half of those that were ever heard


@dataclass
class Pace:
    """How far the others are, from what they announced.

    Who is behind does not wait for anybody, since newer updates of all others are there, and so catches up. Whose
    rounds take longer than those of the others for all that never would, and nobody would mix its updates.
    """

    peers: Peers
    directory: Directory
    board: Board
    staleness: int  # rounds that an update may be old
    _late: int = 0  # by how many rounds its update would have been, at the last look
    _others: int = 0  # the round of the others, at the last look
    _outrun: bool = False
    _went: deque[int] = field(default_factory=lambda: deque(maxlen=2))  # rounds of the others while this member trained

    def next_round(self, round: int, last: int) -> int:
        """The round to train now: `round`, or a later one up to `last`, leaving out those that nobody would mix.

        Later only after two looks that found its update too old by the time it is announced, and not about to catch
        up. It is the round in which the others will be by then, if this training lets them go on as far as the shorter
        of the last two.
        """
        self._others = self.others()
        went = min(self._went) if len(self._went) == self._went.maxlen else 0
        before, late = self._late, self._others + went - round
        recovers = before <= self.staleness or late <= CATCH_UP * (before - late)
        self._outrun = late > self.staleness and (self._outrun or not recovers)
        onward = max(round, min(self._others + max(1, went), last)) if self._outrun else round
        self._late = self._others + went - onward
        return onward

    def announced(self) -> None:
        """Takes in that the update of the round is trained and announced."""
        self._went.append(max(0, self.others() - self._others))

    def others(self) -> int:
        """The round that at least half of the connected members have reached; 0 if too few have said theirs."""
        here = {self.directory.index_of(peer) for peer in self.peers.connected()}
        others = [member for member in range(self.directory.count()) if member != self.directory.own_index]
        rounds = {member: said.round for member in others if (said := self.board.newest(member)) is not None}
        connected = [round for member, round in rounds.items() if member in here]
        enough = max(min(VOICES, len(others)), len(rounds) / 2)
        return statistics.median_low(connected) if connected and len(connected) >= enough else 0
