"""What an operator chooses when a node starts; frozen, already checked for form."""

from dataclasses import dataclass
from pathlib import Path

from node.agreement import NO_WAYS
from node.home import Home
from node.sources import Ways
from node.storage import Retention


@dataclass(frozen=True, slots=True)
class StartSettings:
    """Settings of one run of a node. Times in seconds."""

    home: Home
    session_path: Path | str  # or a URL or a CID
    passphrase: str
    reach: Ways = NO_WAYS  # to a session file that is not on this machine
    rpc: str | None = None  # None: the session file's hint
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    peers: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()  # through which others can dial this node
    hole_punching: bool = False  # with relays: punch holes through NATs to members that a relay connects
    mdns: bool = True
    dht: bool = False  # look for members in the Kademlia directory of fl-nodes
    publish: bool = False  # put our addresses on the ledger
    metrics: tuple[str, int] | None = None  # host and port of the page for Prometheus; port 0 chooses one
    task: str | None = None  # None: the session's
    data_dir: Path | None = None
    share: int | None = None  # None: the member's index
    ipfs: str | None = None
    session_key: Path | None = None  # a file with the key of a sealed session; None: from the home or a member
    keep_snapshots: Retention | None = None  # None: all
    snapshot_disk: int | None = None  # bytes of the embedded store; None: no limit
    replica_patience_s: float = 300.0  # a member that is away for longer counts as lost: others keep what it kept
    replicate_s: float = 20.0  # at the end, for the copies of the last snapshots
    older_snapshot: bool = False  # a home without state may go on from an older snapshot than its newest
    threads: int = 0  # torch threads; 0: all cores but one
    device: str = "auto"  # that trains: auto, cpu, cuda, cuda:N or mps
    role: str | None = None  # coordinator or worker, if the operator wants to be sure
    throttle_s: float = 0.0  # that a training step takes at least, to be a slow worker on purpose
    misbehave: str | None = None  # an attack, in a session that is an experiment
    confirmations: int = 1  # blocks on top of a record before it counts as there
    quorum_s: float = 600.0  # to wait for the session's quorum
    linger_s: float = 120.0  # to serve on for the others after the last round
    stop_s: float = 20.0  # for the round in flight after a signal
    flush_s: float = 60.0  # for the outbox at the end
