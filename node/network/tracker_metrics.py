"""What a tracker has done and what it cost, as numbers."""

from dataclasses import dataclass

from node.network.host import RunningHost
from node.network.metrics import Metric, labelled, single
from node.network.registrations import Directory


@dataclass
class TrackerCounts:
    """What the tracker has done since it started."""

    announces: int = 0
    look_ups: int = 0
    announce_seconds: float = 0.0  # spent on answering, in all
    look_up_seconds: float = 0.0
    member_seconds: float = 0.0  # for how long members were registered, added up


def bytes_per_member_hour(counts: TrackerCounts, running: RunningHost) -> float:
    """Wire bytes, in and out, for each hour that a member was registered; 0 before there was a member."""
    spent = sum(each.bytes_in + each.bytes_out for each in running.traffic.traffic().values())
    return spent / (counts.member_seconds / 3600) if counts.member_seconds else 0.0


def tracker_metrics(counts: TrackerCounts, directory: Directory, running: RunningHost) -> list[Metric]:
    """All of it for `metrics.prometheus_text`."""
    traffic = running.traffic.traffic().values()
    name = "fl_node_tracker"
    return [
        single(f"{name}_members", "gauge", "Registrations, over all sessions.", directory.total()),
        single(f"{name}_sessions", "gauge", "Namespaces with members.", len(directory.namespaces())),
        single(f"{name}_received_bytes_total", "counter", "On the wire.", sum(each.bytes_in for each in traffic)),
        single(f"{name}_sent_bytes_total", "counter", "On the wire.", sum(each.bytes_out for each in traffic)),
        single(f"{name}_member_seconds_total", "counter", "Time that members were registered.", counts.member_seconds),
        single(
            f"{name}_bytes_per_member_hour",
            "gauge",
            "Wire bytes in and out since the start, per member and hour of registration.",
            bytes_per_member_hour(counts, running),
        ),
        single(f"{name}_announces_total", "counter", "Announces answered.", counts.announces),
        single(f"{name}_look_ups_total", "counter", "Look-ups answered.", counts.look_ups),
        single(f"{name}_announce_seconds_total", "counter", "Spent on answering announces.", counts.announce_seconds),
        single(f"{name}_look_up_seconds_total", "counter", "Spent on answering look-ups.", counts.look_up_seconds),
        labelled(f"{name}_refused_total", "counter", "What was refused, by cause.", "cause", running.tally.by_cause()),
    ]
