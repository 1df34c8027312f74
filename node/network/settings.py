"""What a user or a session decides about the network; frozen values, checked where they are used."""

from dataclasses import dataclass, field

from node.network.connecting import ConnectionRules
from node.network.fetching import FetchTimes
from node.network.host import HostLimits
from node.network.meeting import PunchRules
from node.network.serving import ServingTimes
from node.network.sink import SpoolRule


@dataclass(frozen=True)
class NetworkSettings:
    """Where to listen, whom to find, and what it may cost."""

    listen: tuple[str, ...]  # multiaddrs, such as /ip4/0.0.0.0/tcp/4001; port 0 chooses one
    peers: tuple[str, ...]  # multiaddrs with /p2p/
    mdns: bool
    session_id: int
    payload_limit: int  # bytes; larger announcements are refused
    trackers: tuple[str, ...] = ()  # multiaddrs with /p2p/
    relays: tuple[str, ...] = ()  # multiaddrs with /p2p/; through them others can dial this node
    punching: PunchRules | None = None  # with relays: whether to get from relayed connections to direct ones
    dht: bool = False  # whether to find members through the Kademlia directory of fl-nodes
    ask_seconds: float = 15.0  # between questions to a random member for the members it knows
    spool: SpoolRule = field(default_factory=SpoolRule)
    connections: ConnectionRules = field(default_factory=ConnectionRules)
    host: HostLimits = field(default_factory=HostLimits)
    fetch_times: FetchTimes = field(default_factory=FetchTimes)
    serving_times: ServingTimes = field(default_factory=ServingTimes)
