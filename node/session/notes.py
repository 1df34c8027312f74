"""What coordinator and workers tell each other beside a payload (docs/protocol.md, section 9): small JSON objects.

A note is signed with the announcement that it rides on. Bytes from outside: nothing is believed before it is checked.
"""

from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.errors import PeerError
from node.messages import NOTE_LIMIT, Content


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


N = TypeVar("N", bound=_Note)


class Orders(_Note):
    """The coordinator's: training steps asked of each member by index, and whether it ends. 0: its own full round."""

    steps: tuple[int, ...] = Field(default=(), max_length=65_536)
    others: int = Field(default=0, ge=0, le=2**31)  # steps asked of a member that `steps` does not name
    end: str = Field(default="", max_length=200)  # why there is no further round
    data: str = Field(
        default="", pattern=r"^([0-9a-f]{64}:[0-9]{1,12})?$"
    )  # SHA-256 and bytes of the served data's manifest

    def manifest(self) -> Content | None:
        """What names every learner's split; None where no data are served."""
        digest, _, size = self.data.partition(":")
        return Content(bytes.fromhex(digest), int(size)) if digest else None

    def steps_of(self, member: int) -> int:
        """What is asked of a member; 0: a full round by its own data."""
        return max(0, self.steps[member]) if 0 <= member < len(self.steps) else self.others

    def fitting(self) -> "Orders":
        """These orders; naming nobody, who then trains a full round each, if they are more than a note can hold."""
        if len(encode(self)) <= NOTE_LIMIT:
            return self
        return Orders(end=self.end, data=self.data)


class Work(_Note):
    """A worker's: what its update was trained on, and how long that took."""

    examples: int = Field(ge=1, le=2**40)
    steps: int = Field(ge=1, le=2**31)
    full: int = Field(ge=1, le=2**31)  # the steps of a whole round by the worker's own data
    download_s: float = Field(default=0.0, ge=0, le=1e7, allow_inf_nan=False)
    training_s: float = Field(default=0.0, ge=0, le=1e7, allow_inf_nan=False)


def encode(note: Orders | Work) -> bytes:
    """The bytes of a note."""
    return orjson.dumps(note.model_dump(exclude_defaults=True))


def read_orders(content: bytes) -> Orders:
    """The coordinator's note; an empty one asks for nothing. PeerError for anything else."""
    return _read(Orders, content) if content else Orders()


def end_of(content: bytes) -> str:
    """Why there is no further round, by a coordinator's note; empty if it does not say so, or is none."""
    try:
        return read_orders(content).end
    except PeerError:
        return ""


def read_work(content: bytes) -> Work:
    """A worker's note. PeerError for anything else."""
    return _read(Work, content)


def _read(kind: type[N], content: bytes) -> N:
    try:
        return kind.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise PeerError(f"a note of {len(content)} bytes says no {kind.__name__.lower()}; left out") from error
