"""Nodes' statuses as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

SHADES = " ▁▂▃▄▅▆▇█"


def live_table(statuses: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One row per node: where it is, what it learned, what it sent, whom it trusts."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in ("member", "state", "round", "loss", "acc. %", "in", "out", "peers", "records", "trust row %"):
        left = column in ("state", "trust row %")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for status in statuses:
        table.add_row(*live_row(status))
    return table


def live_row(status: Mapping[str, Any]) -> list[str]:
    """The cells of one node's row."""
    rounds = status.get("finished_rounds") or []
    last = rounds[-1] if rounds else {}
    metrics = last.get("metrics", {})
    records = status.get("records", {})
    connected = sum(bool(peer.get("connected")) for peer in status.get("peers", []))
    return [
        str(status.get("member", "–")),
        str(status.get("state", "starting")),
        f"{last.get('round', 0)}/{status.get('rounds', '–')}",
        number(metrics.get("train_loss"), 3),
        percent(metrics.get("test_accuracy")),
        size(status.get("bytes_in", 0)),
        size(status.get("bytes_out", 0)),
        str(connected),
        f"{records.get('confirmed', 0)}/{records.get('confirmed', 0) + records.get('pending', 0)}",
        trust_row(last.get("inputs", [])),
    ]


def trust_row(inputs: Sequence[Mapping[str, int]]) -> str:
    """A row as percentages by member, absent peers as a dot."""
    total = sum(entry["weight"] for entry in inputs)  # 65,535, or less of gradients
    cells = ("·" if entry["lag"] == -128 else f"{100 * entry['weight'] / total:.0f}" for entry in inputs)
    return " ".join(f"{cell:>3}" for cell in cells)


def status_view(status: Mapping[str, Any]) -> Group:
    """One node's status in full."""
    about = Table.grid(padding=(0, 2))
    for label, value in _about(status):
        about.add_row(Text(label, style="bold"), value)
    rounds = status.get("finished_rounds") or [{}]
    work = rounds[-1].get("work") or []
    tables = (live_table([status], ""), _work_table(work)) if work else (live_table([status], ""),)
    return Group(about, *tables, _peer_table(status))


def _work_table(work: Sequence[Mapping[str, Any]]) -> Table:
    """What each worker of a coordinated session did in the last round, of how many steps of its whole round, in which
    time (seconds), and its share of the next one.
    """
    table = Table(title="work of the last round", title_justify="left", header_style="bold")
    for column in ("worker", "steps", "of", "next round", "examples", "download", "training", "upload", "round trip"):
        table.add_column(column, justify="right")
    for one in work:
        times = (number(one[f"{name}_s"], 2) for name in ("download", "training", "upload", "round_trip"))
        full = one.get("full") or None  # of a status that an earlier version wrote: not known
        shares = (number(full, 0), number(one.get("next_steps") or full, 0))
        table.add_row(str(one["member"]), str(one["steps"]), *shares, str(one["examples"]), *times)
    return table


def tracker_view(status: Mapping[str, Any]) -> Table:
    """A tracker's status in full."""
    about = Table.grid(padding=(0, 2))
    rows = {
        "tracker": "running" if status.get("running") else "not running",
        "peer id": str(status.get("peer_id", "–")),
        "listening": ", ".join(status.get("addresses", [])) or "–",
        "members": f"{status.get('members', 0)} in {status.get('sessions', 0)} sessions",
        "answered": f"{status.get('announces', 0)} announces, {status.get('look_ups', 0)} look-ups",
        "refused": str(sum(status.get("refused", {}).values())),
        "traffic": f"{size(status.get('bytes_in', 0))} in, {size(status.get('bytes_out', 0))} out, "
        f"{size(status.get('bytes_per_member_hour', 0))} per member and hour",
    }
    for label, value in rows.items():
        about.add_row(Text(label, style="bold"), value)
    return about


def _about(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    session = status.get("session", {})
    records = status.get("records", {})
    rows = [
        ("session", f"{session.get('name', '–')} ({session.get('id', '–')})"),
        ("node", "running" if status.get("running") else "not running"),
        *_registered(status),
        ("peer id", str(status.get("peer_id", "–"))),
        ("account", str(status.get("account", "–"))),
        ("listening", ", ".join(status.get("addresses", [])) or "–"),
        ("records", f"{records.get('confirmed', 0)} on the chain, {records.get('pending', 0)} waiting"),
    ]
    if strangers := status.get("strangers"):
        seen = f"{strangers['count']} known, {strangers['connected']} connected, {strangers['banned']} banned"
        rows.append(("strangers", f"{seen}; {size(strangers['bytes_in'])} in, {size(strangers['bytes_out'])} out"))
    if refused := {cause: count for cause, count in status.get("refused", {}).items() if count}:
        rows.append(("refused", ", ".join(f"{count} {cause}" for cause, count in sorted(refused.items()))))
    if snapshots := status.get("snapshots"):
        rows.append(("snapshots", _kept(snapshots)))
        if snapshots.get("last_error"):
            rows.append(("", str(snapshots["last_error"])))
    if privacy := status.get("privacy"):
        over = f"; {privacy['refused_rounds']} rounds not trained" if privacy["refused_rounds"] else ""
        rows.append(
            (
                "privacy",
                f"epsilon {privacy['epsilon']:.3f} of {privacy['budget']:g} spent, delta {privacy['delta']:g}, "
                f"noise multiplier {privacy['noise_multiplier']:.3f}, sample rate {privacy['sample_rate']:.4f}{over}",
            )
        )
    if records.get("last_error"):
        rows.append(("ledger", str(records["last_error"])))
    if status.get("warning"):
        rows.append(("warning", str(status["warning"])))
    return rows


def _registered(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a member of a coordinated session is, and how many workers there are; nothing in a gossip session."""
    if not (registered := status.get("registration")):
        return []
    gone = f" ({registered['gone']} of them gone)" if registered.get("gone") else ""
    many = f"{registered['workers']} workers{gone}, at most {registered['maximum']}"
    return [("role", f"{registered['role']}; {many}; update {registered['update']}, rule {registered['rule']}")]


def _kept(snapshots: Mapping[str, Any]) -> str:
    """What a node keeps in IPFS, and what is wrong with it."""
    total = sum(snapshots[f"{kind}_bytes"] for kind in ("own", "replica", "other"))
    limit = "" if snapshots["limit"] is None else f" of {size(snapshots['limit'])}"
    wrong = [f"{snapshots[name]} {name.replace('_', '-')}" for name in ("missing", "under_replicated", "damaged")]
    by_hand = f", {snapshots['other']} others" if snapshots["other"] else ""
    return (
        f"{snapshots['own']} own, {snapshots['replicas']} replicas for others{by_hand}; {size(total)}{limit}; "
        f"{', '.join(wrong)}; {snapshots['copies']} copies wanted"
    )


def _peer_table(status: Mapping[str, Any]) -> Table:
    table = Table(header_style="bold")
    for column in ("peer", "member", "connected", "ms", "score", "in", "out", "in, last round", "out, last round"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    rounds = status.get("finished_rounds") or [{}]
    for peer in status.get("peers", []):
        connected = ("by relay" if peer.get("link") == "relayed" else "yes") if peer.get("connected") else "no"
        cells = (peer["peer_id"], str(peer.get("member", "–")), connected)
        standing = (number(peer.get("latency_ms"), 1), number(peer.get("score"), 0))
        counts = [
            size(source.get(way, 0))
            for source in (peer, rounds[-1].get("traffic", {}).get(peer["peer_id"], {}))
            for way in ("bytes_in", "bytes_out")
        ]
        table.add_row(*cells, *standing, *counts)
    return table


def matrix_table(rows: Mapping[int, Mapping[int, float]], members: Sequence[int]) -> Table:
    """A trust matrix in percent: who (row) mixed whom (column) with what share, a fraction."""
    table = Table(title="trust matrix, last round (%)", title_justify="left", header_style="bold")
    table.add_column("member", justify="right")
    for member in members:
        table.add_column(str(member), justify="right")
    for member in members:
        row = rows.get(member, {})
        table.add_row(str(member), *(percent(row[j]) if j in row else "·" for j in members))
    return table


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def percent(fraction: float | None) -> str:
    """A fraction in percent with two decimals; a dash for none."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def number(value: float | None, digits: int) -> str:
    """A number, a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"
