"""A running node's numbers for Prometheus: the network's, and how far it is."""

from node.daemon.learner import TorchLearner
from node.daemon.recording import Recorder
from node.daemon.status import Status
from node.network.metrics import Metric, labelled, single
from node.network.service import Network


def node_metrics(network: Network, recorder: Recorder, learner: TorchLearner, status: Status) -> list[Metric]:
    """Everything, read now."""
    records = recorder.state
    kept = status.replication.standing
    last = status.rounds.last or {"round": 0, "metrics": {}}
    learned = {name: value for name, value in last["metrics"].items() if value is not None}
    return [
        *network.metrics(),
        single("fl_node_round", "gauge", "The last finished round.", last["round"]),
        single("fl_node_refused_updates_total", "counter", "Updates of others left out.", learner.refused_updates),
        single("fl_node_records_confirmed_total", "counter", "Records on the chain.", records.confirmed),
        single("fl_node_records_pending", "gauge", "Records that wait for the chain.", records.pending),
        labelled(
            "fl_node_snapshots",
            "gauge",
            "Snapshots in IPFS, by whose they are or what is wrong.",
            "kind",
            {
                "own": kept.own,
                "replica": kept.replicas,
                "other": kept.other,
                "missing": kept.missing,
                "under_replicated": kept.under_replicated,
                "damaged": kept.damaged,
            },
        ),
        labelled(
            "fl_node_snapshot_bytes",
            "gauge",
            "Bytes of snapshots, by whose they are; limit: of the disk.",
            "kind",
            {"own": kept.own_bytes, "replica": kept.replica_bytes, "other": kept.other_bytes}
            | ({} if kept.limit is None else {"limit": kept.limit}),
        ),
        labelled("fl_node_learning", "gauge", "Of the last finished round.", "metric", learned),
    ]
