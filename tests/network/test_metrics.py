import time

import pytest
import trio

from node.causes import Cause
from node.network.lateness import LatenessMeter
from node.network.metrics import labelled, prometheus_text, single
from tests.network.members import identity, meet, member


def test_the_text_is_what_prometheus_reads():
    metrics = [
        single("up_total", "counter", "Line\nbreak and back\\slash.", 3),
        labelled("size_bytes", "gauge", "By name.", "name", {'a "quoted" name': 0.25, "b": 1e9}),
    ]
    assert prometheus_text(metrics) == (
        "# HELP up_total Line\\nbreak and back\\\\slash.\n"
        "# TYPE up_total counter\n"
        "up_total 3\n"
        "# HELP size_bytes By name.\n"
        "# TYPE size_bytes gauge\n"
        'size_bytes{name="a \\"quoted\\" name"} 0.25\n'
        'size_bytes{name="b"} 1000000000\n'
    )


@pytest.mark.real
async def test_a_node_s_metrics_name_its_members_and_what_was_refused():
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        await meet(alice, bob)
        alice.standings.penalize(bob.peer_id, 5, Cause.BAD_ANNOUNCEMENT)
        text = prometheus_text(alice.metrics())
        assert f'fl_node_received_bytes_total{{peer="{bob.peer_id}"}}' in text
        assert 'fl_node_refused_total{cause="bad-announcement"} 1' in text
        assert "fl_node_connected_members 1" in text
        assert 'fl_node_loop_lateness_seconds{quantile="0.99"}' in text


@pytest.mark.real
async def test_a_crowd_of_strangers_is_one_entry():
    """Whoever likes comes under thousands of names; neither a label nor a line is theirs."""
    members = {identity("alice").peer_id, identity("bob").peer_id}
    known = members.__contains__
    async with member("alice", gate=known) as alice, member("bob", alice.addresses(), gate=known) as bob:
        await meet(alice, bob)
        lines = prometheus_text(alice.metrics()).count("\n")
        for number in range(4000):
            alice._parts.running.traffic.account(f"stranger {number}").bytes_in += 10
            alice.standings.penalize(f"stranger {number}", 200.0 if number < 5 else 1.0, Cause.STRANGER_ASKS)
        found, text = alice.strangers(), prometheus_text(alice.metrics())
        assert (found.count, found.connected, found.banned) == (4000, 0, 5)
        assert found.traffic.bytes_in >= 40_000
        assert list(alice.traffic_of_members()) == [bob.peer_id]
        assert text.count("\n") <= lines + 1  # bob's round trip may be known by now
        assert 'fl_node_strangers{what="banned"} 5' in text
        assert f'peer="others"}} {found.traffic.bytes_in}' in text


async def test_a_task_that_blocks_the_loop_is_seen(nursery):
    meter = LatenessMeter()
    nursery.start_soon(meter.run)
    await trio.sleep(0.05)
    time.sleep(0.1)
    await trio.sleep(0.05)
    assert 0.05 < meter.report().worst < 5
    assert meter.report().median <= meter.report().p99 <= meter.report().worst
    nursery.cancel_scope.cancel()


def test_without_samples_nothing_is_late():
    assert LatenessMeter().report().worst == 0
