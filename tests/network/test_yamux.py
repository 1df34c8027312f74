import random
import struct

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamReset
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from node.network.yamux import BufferBudget, Yamux, YamuxLimits
from node.network.yamux_frames import DATA, HEADER, PING, SYN, WINDOW_UPDATE
from node.network.yamux_stream import INITIAL_WINDOW

PEER = ID(b"peer")


class Line:
    """Stands for a Noise session over a stream in memory."""

    def __init__(self, stream, is_initiator):
        self.stream = stream
        self.is_initiator = is_initiator
        self.clogged = False  # as if the peer never read
        self.closed = trio.Event()

    async def read_messages(self):
        data = bytes(await self.stream.receive_some(65_536))
        if not data:
            raise ConnectionClosedError("closed")
        return [data[:7], data[7:]]

    async def write(self, data):
        await self.write_pieces([data])

    async def write_pieces(self, pieces):
        if self.clogged:
            await self.closed.wait()
        await self.stream.send_all(b"".join(pieces))

    async def close(self):
        self.closed.set()
        await self.stream.aclose()


class Hostile:
    """The other end of a connection, without a muxer."""

    def __init__(self, stream):
        self.stream = stream

    async def send(self, kind, flags, stream_id, value, body=b""):
        await self.stream.send_all(struct.pack("!BBHII", 0, kind, flags, stream_id, value) + body)

    async def frame(self):
        """The next frame that is not a ping."""
        while True:
            data = b""
            while len(data) < HEADER.size:
                data += await self.stream.receive_some(HEADER.size - len(data))
            _, kind, flags, stream_id, value = HEADER.unpack(data)
            if kind != PING:
                return kind, flags, stream_id, value


def muxer(stream, is_initiator, limits=None, budget=None):
    return Yamux(Line(stream, is_initiator), PEER, 65_000, limits or YamuxLimits(), budget or BufferBudget(1 << 30))


@pytest.fixture
async def pair(nursery):
    left, right = memory_stream_pair()
    ours, theirs = muxer(left, True), muxer(right, False)
    for each in (ours, theirs):
        nursery.start_soon(each.start)
        await each.event_started.wait()
    yield ours, theirs
    nursery.cancel_scope.cancel()


@pytest.fixture
async def attacked(nursery):
    left, right = memory_stream_pair()
    ours = muxer(left, True, YamuxLimits(max_streams=4, max_buffered=600_000, ping_interval=1000))
    nursery.start_soon(ours.start)
    await ours.event_started.wait()
    yield ours, Hostile(right)
    nursery.cancel_scope.cancel()


async def read_all(stream):
    data = bytearray()
    with pytest.raises(MuxedStreamEOF):  # noqa: PT012  (until the end)
        while True:
            data += await stream.read(100_000)
    return bytes(data)


async def test_bytes_arrive_whole_in_both_directions_at_once(pair):
    ours, theirs = pair
    payload = random.Random(1).randbytes(3_000_000)
    received = {}

    async def send(stream):
        await stream.write(payload)
        await stream.close()

    async def take(name, stream):
        received[name] = await read_all(stream)

    ours_stream = await ours.open_stream()
    their_stream = await theirs.accept_stream()
    async with trio.open_nursery() as nursery:
        for name, stream in (("left", ours_stream), ("right", their_stream)):
            nursery.start_soon(send, stream)
            nursery.start_soon(take, name, stream)
    assert received == {"left": payload, "right": payload}
    assert not ours.streams
    assert not theirs.streams
    assert ours.buffered == theirs.buffered == 0


async def test_a_reader_that_pauses_stops_the_writer_and_nothing_is_lost(pair, autojump_clock):
    ours, theirs = pair
    payload = bytes(1_000_000)
    stream = await ours.open_stream()
    peer = await theirs.accept_stream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, payload)
        await trio.sleep(30)
        assert theirs.buffered == INITIAL_WINDOW
        received = 0
        while received < len(payload):
            received += len(await peer.read(10_000))
    assert received == len(payload)


async def test_a_cancelled_write_harms_no_other_stream(pair):
    ours, theirs = pair
    first, second = await ours.open_stream(), await ours.open_stream()
    with trio.move_on_after(0.05):
        await first.write(bytes(10_000_000))
    await second.write(b"still fine")
    await theirs.accept_stream()
    peer = await theirs.accept_stream()
    assert await peer.read(100) == b"still fine"


async def test_a_cancelled_read_loses_nothing(pair):
    ours, theirs = pair
    stream = await ours.open_stream()
    peer = await theirs.accept_stream()
    with trio.move_on_after(0.01):
        await peer.read(10)
    await stream.write(b"0123456789")
    assert await peer.read(4) + await peer.read(100) == b"0123456789"


async def test_a_reset_ends_both_sides(pair):
    ours, theirs = pair
    stream = await ours.open_stream()
    peer = await theirs.accept_stream()
    await stream.write(b"unread")
    await stream.reset()
    with pytest.raises(MuxedStreamReset):  # noqa: PT012  (what came before may be read)
        while True:
            await peer.read(10)
    with pytest.raises(MuxedStreamReset):
        await peer.write(b"x")
    assert not theirs.streams


async def test_closing_wakes_everybody_who_waits(pair):
    ours, theirs = pair
    await ours.open_stream()
    peer = await theirs.accept_stream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.close)
        with pytest.raises(MuxedStreamReset):
            await peer.read(1)
        with pytest.raises(MuxedConnUnavailable):
            await theirs.accept_stream()
    assert ours.is_closed
    await theirs.event_closed.wait()


async def test_the_round_trip_is_measured(pair):
    ours, _ = pair
    with trio.fail_after(5):
        while not ours.rtt():
            await trio.sleep(0.001)
    assert 0 < ours.rtt() < 1


async def test_more_than_the_window_closes_the_connection(attacked):
    ours, hostile = attacked
    await hostile.send(DATA, SYN, 2, INITIAL_WINDOW, bytes(INITIAL_WINDOW))
    await hostile.send(DATA, 0, 2, 1, b"x")
    with trio.fail_after(5):
        await ours.event_closed.wait()
    await wait_all_tasks_blocked()
    assert ours.buffered == 0
    assert ours.budget.tally.counts == {"window": 1}


async def test_more_streams_than_allowed_are_reset_and_the_others_live(attacked):
    ours, hostile = attacked
    for n in range(1, 7):
        await hostile.send(WINDOW_UPDATE, SYN, 2 * n, 0)
    flags = {stream_id: flags async for stream_id, flags in _answers(hostile, 6)}
    assert flags == {2: 2, 4: 2, 6: 2, 8: 2, 10: 8, 12: 8}
    assert len(ours.streams) == 4
    assert not ours.is_closed


async def _answers(hostile, count):
    for _ in range(count):
        _, flags, stream_id, _ = await hostile.frame()
        yield stream_id, flags


async def test_windows_of_many_streams_are_bounded_together(attacked):
    ours, hostile = attacked
    for n in range(1, 4):
        await hostile.send(DATA, SYN, 2 * n, INITIAL_WINDOW, bytes(INITIAL_WINDOW))
    with trio.fail_after(5):
        await ours.event_closed.wait()


async def test_all_connections_share_one_budget(nursery):
    budget = BufferBudget(300_000)
    ends = []
    for _ in range(2):
        left, right = memory_stream_pair()
        connection = muxer(left, True, budget=budget)
        nursery.start_soon(connection.start)
        await connection.event_started.wait()
        hostile = Hostile(right)
        await hostile.send(DATA, SYN, 2, 200_000, bytes(200_000))
        ends.append(connection)
    with trio.fail_after(5):
        await ends[1].event_closed.wait()
    assert not ends[0].is_closed
    assert budget.used <= 200_000
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param((DATA, 0, 8, 1 << 31), id="a huge frame for no stream"),
        pytest.param((DATA, SYN, 2, (1 << 32) - 1), id="a frame of 4 GiB"),
        pytest.param((WINDOW_UPDATE, SYN, 3, 0), id="a stream id that is ours"),
        pytest.param((WINDOW_UPDATE, SYN, 0, 0), id="stream 0"),
        pytest.param((77, 0, 0, 0), id="an unknown kind"),
    ],
)
async def test_a_frame_that_cannot_be_closes_the_connection(attacked, frame):
    ours, hostile = attacked
    await hostile.send(*frame)
    with trio.fail_after(5):
        await ours.event_closed.wait()


async def test_questions_without_reading_the_answers_close_the_connection(attacked):
    ours, hostile = attacked
    ours.secured_conn.clogged = True
    with trio.fail_after(5):
        for n in range(10_000):
            try:
                await hostile.send(PING, SYN, 0, n)
            except trio.BrokenResourceError:
                break
        await ours.event_closed.wait()


async def test_a_silent_link_is_noticed(nursery, autojump_clock):
    left, _right = memory_stream_pair()
    ours = muxer(left, True, YamuxLimits(ping_interval=5, ping_timeout=10))
    nursery.start_soon(ours.start)
    with trio.fail_after(20):
        await ours.event_closed.wait()


async def test_a_peer_that_takes_nothing_is_cut_off(nursery, autojump_clock):
    left, _right = memory_stream_pair()
    ours = muxer(left, True, YamuxLimits(write_timeout=5, ping_timeout=1000))
    nursery.start_soon(ours.start)
    await ours.event_started.wait()
    stream = await ours.open_stream()
    ours.secured_conn.clogged = True
    with pytest.raises(MuxedConnUnavailable), trio.fail_after(20):
        await stream.write(b"x")
    assert ours.is_closed


async def test_a_stream_that_the_peer_keeps_half_open_is_dropped_in_time(nursery, autojump_clock):
    left, right = memory_stream_pair()
    ours, theirs = muxer(left, True), muxer(right, False)
    for each in (ours, theirs):
        nursery.start_soon(each.start)
        await each.event_started.wait()
    stream = await ours.open_stream()
    await theirs.accept_stream()
    await stream.close()
    assert ours.streams
    await trio.sleep(100)
    assert not ours.streams
    assert not theirs.streams
    nursery.cancel_scope.cancel()


async def test_any_bytes_end_the_connection_or_are_ignored_and_nothing_else():
    chance = random.Random(7)
    for _ in range(300):
        left, right = memory_stream_pair()
        budget = BufferBudget(1 << 20)
        ours = muxer(left, True, YamuxLimits(max_streams=4), budget)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.start)
            frames = b"".join(
                HEADER.pack(0, chance.choice([0, 0, 1, 2, 3, 9]), chance.randrange(16), chance.randrange(6), size)
                + bytes(size if chance.random() < 0.8 else chance.randrange(20))
                for size in (chance.randrange(30) for _ in range(20))
            )
            await right.send_all(frames)
            await right.send_stream.aclose()
            with trio.fail_after(5):
                await ours.event_closed.wait()
            nursery.cancel_scope.cancel()
        assert budget.used == 0
