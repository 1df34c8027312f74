"""What coordinator and workers have in common: the plan, the row shapes, and the ports that only they need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from node.messages import WEIGHT_SUM, Announcement, Content, Input, Mix, announcement_bytes
from node.session.notes import Work
from node.session.ports import Contribution, Directory, Payload, Peers, Progress, Records, Snapshots, Trained
from node.session.succession import Succession, Term

MODEL_CODEC = "float32"  # the model itself is never rounded: its hash is the hash of what was mixed
OLDEST_LAG = -127  # what a row can say; −128 means absent


@dataclass(frozen=True, slots=True)
class CoordinatedPlan:
    """What the session file says about coordinated rounds."""

    session_id: int
    rounds: int
    quorum: int  # updates of workers that a round needs
    codec: str
    snapshot_every: int
    staleness: int  # rounds that an update may be late; 0 where late ones are dropped
    maximum: int = 65_535  # workers; those who joined later do not count
    batch_size: int = 2**31  # of the task: bounds the examples that a worker can claim

    def takes_snapshot(self, round: int) -> bool:
        """Whether the round goes to IPFS."""
        return round % self.snapshot_every == 0 or round == self.rounds


@dataclass(frozen=True, slots=True)
class Counted:
    """A verified update with the examples that its weight comes from."""

    contribution: Contribution
    examples: int


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The new model: the row that made it (of those that were there), its float32 payload, files for the snapshot."""

    inputs: tuple[Input, ...]
    payload: Payload
    digest: bytes
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Payload] = field(default_factory=dict)


class Aggregator(Protocol):
    """The coordinator's side of learning; owns the model. Methods may take long and must not block the loop."""

    async def model(self) -> Trained:
        """The model as it is now, as a float32 payload."""

    async def accepts(self, payload: Payload) -> str | None:
        """None for a payload that decodes to finite parameters of the right shapes, else what is wrong with it."""

    async def aggregate(self, round: int, updates: Sequence[Counted]) -> Aggregated:
        """Weighs and mixes; the result becomes the model."""

    def used(self) -> Mapping[int, int]:
        """By worker, the newest round of which an update went in: no older one may."""

    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of every round so far."""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """A worker's encoded update, and what it was trained on."""

    trained: Trained
    work: Work


class Trainee(Protocol):
    """A worker's side of learning."""

    async def adopt(self, payload: Payload, measure: bool) -> Mapping[str, float]:
        """Makes the model in a float32 payload its own; its metrics on own data, if wanted. UpdateError."""

    async def train(self, round: int, steps: int, stop: Callable[[], bool]) -> WorkDone | None:
        """So many steps from the model (0: a full round), fewer if `stop` says so between two of them.

        None where its privacy budget does not pay for the round.
        """

    def epsilon(self) -> float | None:
        """Spent so far of a privacy budget; None without one."""


class Supply(Protocol):
    """Where a learner's data come from in a session that serves them."""

    async def obtain(self, said: Content | None) -> bool:
        """Whether the data are here now; may take long. False if those that were said are bad, or none are known."""


class Election(Protocol):
    """How a member takes over from a coordinator that is gone; in sessions that allow it."""

    @property
    def succession(self) -> Succession:
        """Who coordinates, by the ledger."""

    @property
    def wait_s(self) -> float:
        """Seconds of silence, before the first in the ledger's order may take over."""

    def place(self, term: Term) -> int:
        """How many members come before this one."""

    async def take_over(self, term: Term, model: Payload | None, pending: Mix | None) -> bool | None:
        """Records the last model again; True if the ledger says that this member coordinates now.

        False if another one came first, None if nothing was recorded, since the model is not to be had. `model` is the
        last model if the worker has it, `pending` its mix that no record carries yet.
        """


class CoordinatedJournal(Protocol):
    """The node's disk, as far as coordinated rounds need it; every write is atomic."""

    async def load(self) -> Progress:
        """Where to go on; the learner's state is what it was."""

    async def newest(self) -> tuple[int, Trained] | None:
        """The newest update that was promised, with its round."""

    async def announcement(self, round: int) -> Announcement | None:
        """Our own announcement of a round, as it was signed."""

    async def trained(self, round: int, trained: Trained, note: bytes = b"") -> Trained:
        """Keeps an update's payload and the note to announce it with, before it is committed; as it is kept."""

    async def note(self, round: int) -> bytes:
        """The note that was kept with a round's update; empty if none was."""

    async def announced(self, announcement: Announcement) -> None:
        """Keeps a signed announcement, so that peers that come later can ask for it."""

    async def mixed(self, mix: Mix) -> None:
        """Keeps the learner's state and the mix: the round is over."""

    async def closed(self) -> None:
        """Notes that the last mix is in a closing record."""


@dataclass(frozen=True, slots=True)
class CoordinatedPorts:
    """The parts of the node that coordinated rounds speak to, besides the learner."""

    peers: Peers
    directory: Directory
    records: Records
    journal: CoordinatedJournal
    snapshots: Snapshots


def discard(payload: Payload) -> None:
    """A payload that is not needed any more: its file, if it is one, goes."""
    if isinstance(payload, Path):
        payload.unlink(missing_ok=True)


def signed(plan: CoordinatedPlan, peers: Peers, round: int, trained: Trained, codec: str, note: bytes) -> Announcement:
    """Our announcement of an update with its note."""
    size = trained.size
    signature = peers.sign(announcement_bytes(plan.session_id, round, trained.digest, size, codec, note))
    return Announcement(plan.session_id, round, trained.digest, size, codec, peers.peer_id, signature, note)


def adoption_row(worker: int, coordinator: int, round: int, model_round: int) -> tuple[Input, ...] | None:
    """A worker's row of `round`, after which it took over the model of `model_round`; None if no row can say it."""
    lag = round - model_round
    if lag < OLDEST_LAG:
        return None
    entries = (Input(worker, 0, 0), Input(coordinator, WEIGHT_SUM, lag))
    return tuple(sorted(entries, key=lambda entry: entry.member))
