"""The session file: everything that members must agree on, parsed and validated; knows no chain and no file system.

A session file is TOML. Its exact bytes are hashed and the hash is on the ledger (docs/protocol.md, section 1), so
reading and writing go through `parse_session` and `format_session` and never rewrite a file that exists.
"""

import hashlib
import tomllib
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from node.errors import SessionFileError

FILE_LIMIT = 64 * 1024
Address = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[\w .+:/-]{1,64}$")]
Line = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\n]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Initial(_Part):
    """The parameters that every member starts from."""

    cid: Line
    sha256: Digest  # of their float32 payload


class Shares(_Part):
    """How a common data set is cut into the members' shares; a task with data of its own ignores it."""

    split: Line = "iid"
    count: int = Field(default=4, ge=1, le=65_535)
    source: Literal["own", "served"] = "own"  # served: the coordinator has the data set and gives each worker its part
    bytes: int = Field(default=2**30, ge=1, le=2**40)  # of a served split


class Limits(_Part):
    """Bounds that no member may exceed or wait beyond."""

    payload_bytes: int = Field(ge=1, le=2**36)
    staleness: int = Field(default=2, ge=0, le=100)  # rounds
    round_deadline_s: float = Field(default=60.0, gt=0, le=86_400)


class Contract(_Part):
    """Where the session's ledger is."""

    chain_id: int = Field(ge=1, lt=2**63)
    address: Address
    rpc: Line = ""  # a hint; members may use another node of the same chain


class Meeting(_Part):
    """Where members find each other, besides the local network and the ledger's member list."""

    bootstrap: tuple[Line, ...] = Field(default=(), max_length=64)
    trackers: tuple[Line, ...] = Field(default=(), max_length=16)


Rule = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "krum", "multi_krum",
    "geometric_median", "clipping",
    "sgd", "adam",
]  # fmt: skip


class Aggregation(_Part):
    """How the coordinator makes one model of the workers' updates (docs/protocol.md, section 9)."""

    rule: Rule = "fedavg"  # sgd and adam are torch's optimizers, for update = "gradients"
    faulty: int = Field(default=0, ge=0, le=65_535)  # updates that a robust rule assumes to be bad
    proximal: float = Field(default=0.01, ge=0, le=1e6)  # μ of fedprox
    server_rate: float = Field(default=0.01, gt=0, le=1e3)  # η of fedadam, fedyogi and fedadagrad; of sgd and adam
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate of sgd and adam, over the session's rounds
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0, le=1e3)


class Convergence(_Part):
    """When a coordinated session ends before its last round; without a metric, never."""

    metric: Literal["", "accuracy", "loss"] = ""  # of the model, on the coordinator's own data
    target: float | None = Field(default=None, allow_inf_nan=False)  # reached: the session ends
    plateau: int = Field(default=0, ge=0, le=1_000_000)  # rounds without an improvement; 0: never mind

    @model_validator(mode="after")
    def _metric_is_named(self) -> Self:
        if not self.metric and (self.target is not None or self.plateau):
            raise ValueError("a target or a plateau needs a metric: accuracy or loss")
        return self


class Coordination(_Part):
    """What a coordinated session adds: who coordinates, by which rules rounds close."""

    coordinator: Address  # the account of a member
    maximum: int = Field(default=65_535, ge=1, le=65_535)  # workers; those who join later are refused
    accumulate: int = Field(default=1, ge=1, le=1_000_000)  # batches of a gradient
    late: Literal["weight", "drop"] = "weight"  # what becomes of an update that missed its round
    deadline_spread: float = Field(default=4.0, ge=0, le=1000)  # MADs beyond the median of the round trips
    election_s: float = Field(default=0.0, ge=0, le=1e7)  # of silence, after which members elect another; 0: never
    balance: bool = True  # whether slow workers are asked for fewer steps
    aggregation: Aggregation = Aggregation()
    convergence: Convergence = Convergence()


class Privacy(_Part):
    """What every member may reveal of each example it trains on (docs/privacy.md)."""

    epsilon: float = Field(gt=0, le=4294, allow_inf_nan=False)  # of a member, over the whole session
    delta: float = Field(default=1e-5, gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0, le=1e6)  # norm of an example's gradient
    noise_multiplier: float | None = Field(default=None, gt=0, le=1e6)  # None: so much that all rounds are paid for
    sample_rate: float | None = Field(default=None, gt=0, le=1)  # None: the task's batch size / the member's examples
    learning_rate: float | None = Field(default=None, gt=0, le=1e6)  # None: the task's
    accountant: Literal["prv", "rdp"] = "prv"


class Sealing(_Part):
    """That the snapshots are encrypted, by a key that members get from each other (docs/privacy.md)."""

    key_hash: Digest  # docs/protocol.md, section 8


class Session(_Part):
    """A session's agreement (design: one node, several topologies)."""

    format: Literal[1] = 1
    name: Name
    creator: Address
    task: Name
    model_sha256: Digest  # of the parameters' names and shapes: a member's task must have the same
    topology: Literal["gossip", "coordinated"] = "gossip"
    update: Literal["parameters", "gradients"] = "parameters"
    objective: Literal["common", "personal"] = "common"
    rounds: int = Field(ge=1, le=1_000_000)
    cohort: int = Field(default=5, ge=1, le=1024)  # other members asked in a round
    quorum: int = Field(default=2, ge=1, le=65_535)
    """Members present before the first round; of a coordinated session, workers' updates that each round needs."""
    codec: Name = "float32"
    seed: int = Field(ge=0, lt=2**32)
    snapshot_every: int = Field(default=5, ge=1)
    replicas: int = Field(default=2, ge=1, le=64)
    """Members who keep a recorded snapshot, its owner among them; 1: the owner alone."""
    access: Literal["open", "admitted"] = "open"
    experiment: bool = False  # members may misbehave on purpose
    initial: Initial
    data: Shares = Shares()
    limits: Limits
    ledger: Contract
    peers: Meeting = Meeting()
    coordinated: Coordination | None = None
    privacy: Privacy | None = None
    sealed: Sealing | None = None

    @model_validator(mode="after")
    def _sealed_is_for_whom_the_creator_admits(self) -> Self:
        if self.sealed is not None and self.access != "admitted":
            raise ValueError('a [sealed] table belongs to access = "admitted": anybody could join an open session')
        return self

    @model_validator(mode="after")
    def _topology_is_described(self) -> Self:
        if (self.topology == "coordinated") != (self.coordinated is not None):
            raise ValueError('a [coordinated] table belongs to topology = "coordinated", and only to it')
        if self.coordinated is not None and self.quorum > self.coordinated.maximum:
            raise ValueError(f"a quorum of {self.quorum} never comes where at most {self.coordinated.maximum} may join")
        rule = "fedavg" if self.coordinated is None else self.coordinated.aggregation.rule
        if (self.update == "gradients") != (rule in ("sgd", "adam")):
            raise ValueError(
                'update = "gradients" goes with the rules sgd and adam of a coordinated session, and no other'
            )
        if self.data.source == "served" and (self.coordinated is None or self.privacy is not None):
            raise ValueError(
                'data.source = "served" goes with topology = "coordinated", and not with a [privacy] table'
            )
        if self.privacy is not None and self.coordinated is not None and self.coordinated.election_s:
            raise ValueError("an election_s does not go with a [privacy] table: who is elected has spent a budget")
        if self.privacy is not None and (self.update == "gradients" or rule == "fedprox"):
            raise ValueError(f'a [privacy] table goes with update = "parameters", and not with the rule {rule}')
        return self


def parse_session(content: bytes, source: str) -> Session:
    """The session that the bytes of a session file describe.

    Raises SessionFileError naming `source` and the first field that is wrong.
    """
    if len(content) > FILE_LIMIT:
        raise SessionFileError(f"{source} is {len(content)} bytes, a session file has at most {FILE_LIMIT}")
    try:
        return Session.model_validate(tomllib.loads(content.decode()))
    except UnicodeDecodeError as error:
        raise SessionFileError(
            f"{source} is not a text file (byte {error.start}): ask its creator for the file"
        ) from error
    except RecursionError as error:
        raise SessionFileError(f"{source} is nested too deeply: ask its creator for the file") from error
    except tomllib.TOMLDecodeError as error:
        raise SessionFileError(
            f"{source} is not valid TOML ({error}): truncated? Ask its creator for the file"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] == "missing" else f", not {str(first['input'])[:80]!r}"
        raise SessionFileError(f"{source}: {field}: {first['msg']}{value}: ask its creator for the file") from error


def format_session(session: Session) -> bytes:
    """The bytes of a new session file."""
    fields: dict[str, Any] = session.model_dump(mode="json", exclude_none=True)
    header = "# A session of fl-node. Its SHA-256 is on the ledger: members refuse a file that was changed.\n"
    return header.encode() + tomli_w.dumps(fields).encode()


def config_hash(content: bytes) -> bytes:
    """SHA-256 of a session file's exact bytes (32 bytes)."""
    return hashlib.sha256(content).digest()
