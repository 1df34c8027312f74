import pytest
import trio

from node.messages import Traffic
from node.network.metering import NOBODY, MeteredStream, TrafficLedger


@pytest.fixture
async def pair(nursery):
    """A metered stream, the other end, and the ledger."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    far = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    ledger = TrafficLedger()
    stream = MeteredStream(await listener.accept(), ledger)
    await listener.aclose()
    yield stream, far, ledger
    await stream.close()
    await far.aclose()


async def test_a_stream_is_settled_once_however_often_it_is_closed(pair):
    stream, _, ledger = pair
    await stream.write(b"1234")
    stream.book_to("member")
    for _ in range(3):
        await stream.close()
        assert ledger.traffic() == {NOBODY: Traffic(0, 0), "member": Traffic(0, 4)}
    assert ledger.account("member").open_streams == 0


async def test_a_handshake_that_fails_is_booked_to_nobody_once(pair):
    stream, _, ledger = pair
    await stream.write(b"1234")
    for _ in range(3):
        await stream.close()
        assert ledger.traffic() == {NOBODY: Traffic(0, 4)}


async def test_a_peer_that_is_named_after_the_stream_was_closed_takes_nothing_over(pair):
    stream, _, ledger = pair
    await stream.write(b"1234")
    await stream.close()
    stream.book_to("member")
    await stream.close()
    assert ledger.traffic() == {NOBODY: Traffic(0, 4)}
    assert stream.is_named


async def test_where_members_have_proven_who_they_are_is_known(pair):
    stream, _, ledger = pair
    stream.book_to("member")
    assert ledger.hosts_of_members() == []
    ledger.is_member = "member".__eq__
    assert ledger.hosts_of_members() == ["127.0.0.1"]
    await stream.close()
    assert ledger.hosts_of_members() == ["127.0.0.1"]


def test_a_crowd_of_strangers_does_not_drive_members_out():
    ledger = TrafficLedger(limit=10)
    ledger.is_member = "member".__eq__
    ledger.account("member").bytes_in = 1_000_000
    for n in range(100):
        ledger.account(f"stranger {n}").bytes_in = 2
    traffic = ledger.traffic()
    assert len(traffic) == 10
    assert traffic["member"] == Traffic(1_000_000, 0)
    assert sum(each.bytes_in for each in traffic.values()) == 1_000_200


def test_members_make_room_where_there_are_only_members():
    ledger = TrafficLedger(limit=10)
    ledger.is_member = lambda peer_id: True
    for n in range(100):
        ledger.account(f"member {n}").bytes_in = 2
    assert len(ledger.traffic()) == 10
    assert ledger.traffic()[NOBODY].bytes_in == 182
