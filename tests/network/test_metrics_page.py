import logging
import random
import urllib.request

import pytest
import trio
import trio.testing

from node.causes import Cause, Tally
from node.errors import NetworkError
from node.network.metrics import single
from node.network.metrics_page import MAX_AT_A_TIME, MAX_REQUEST, metrics_page

HOST = "127.0.0.1"


def numbers():
    return [single("fl_node_things_total", "counter", "Things.", 7)]


async def ask(page, content: bytes) -> bytes:
    port = int(page.url.split(":")[2].split("/")[0])
    answer = b""
    async with await trio.open_tcp_stream(HOST, port) as stream:
        try:
            await stream.send_all(content)
            await stream.send_eof()
            async for some in stream:
                answer += some
        except trio.BrokenResourceError:
            pass
    return answer


async def test_a_scraper_reads_the_metrics():
    async with metrics_page(HOST, 0, numbers) as page:

        def scrape():
            with urllib.request.urlopen(page.url, timeout=5) as response:
                return response.headers["Content-Type"], response.read().decode()

        kind, text = await trio.to_thread.run_sync(scrape)
    assert kind.startswith("text/plain; version=0.0.4")
    assert "\nfl_node_things_total 7\n" in text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"400"),
        (b"", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * MAX_REQUEST, b"431"),
        (b"\x00" * 100_000, b"431"),
    ],
)
async def test_what_is_no_request_for_the_page_is_refused_and_counted(request_, status):
    async with metrics_page(HOST, 0, numbers) as page:
        answer = await ask(page, request_)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert sum(page.refused.values()) == 1
        assert (await ask(page, b"GET /metrics HTTP/1.0\r\n\r\n")).endswith(b"fl_node_things_total 7\n")


async def test_hostile_bytes_do_not_end_the_page():
    chance = random.Random(1)
    async with metrics_page(HOST, 0, numbers) as page:
        for _ in range(100):
            await ask(page, chance.randbytes(chance.randrange(3000)))
        assert (await ask(page, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_connections_that_say_nothing_are_bounded_and_time_out(autojump_clock):
    async with metrics_page(HOST, 0, numbers) as page:
        held = [trio.testing.memory_stream_pair() for _ in range(MAX_AT_A_TIME + 4)]
        async with trio.open_nursery() as nursery:
            for _, theirs in held:
                nursery.start_soon(page.handle, theirs)
        assert page.refused == {"too-many-connections": 4, "too-slow": MAX_AT_A_TIME}


async def test_a_flood_of_requests_leaves_few_lines_in_the_log(caplog):
    tally = Tally()
    with caplog.at_level(logging.INFO):
        async with metrics_page(HOST, 0, numbers, tally) as page:
            for _ in range(100):
                await ask(page, b"GET / HTTP/1.1\r\n\r\n")
    assert tally.counts == {Cause.BAD_METRICS_REQUEST: 100}
    assert [record.count for record in caplog.records] == [1, 2, 4, 8, 16, 32, 64]


async def test_a_port_that_is_taken_is_named():
    async with metrics_page(HOST, 0, numbers) as page:
        port = int(page.url.split(":")[2].split("/")[0])
        with pytest.raises(NetworkError, match=f"{HOST}:{port}"):
            async with metrics_page(HOST, port, numbers):
                pass
