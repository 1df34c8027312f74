"""Tests of node.network.unfinished."""

import hashlib

import pytest

from node.network.sink import Sink, SpoolRule
from node.network.unfinished import Unfinished


async def part_of(payload, received, rule=SpoolRule()):  # noqa: B008 - frozen
    """A sink to which the first bytes of a payload came."""
    sink = Sink(hashlib.sha256(payload).digest(), len(payload), rule)
    if received:
        await sink.write([payload[:received]])
    return sink


async def test_who_takes_a_sink_goes_on_where_it_stopped():
    unfinished, payload = Unfinished(), b"a payload"
    unfinished.keep(await part_of(payload, 5))
    sink = unfinished.take(hashlib.sha256(payload).digest(), len(payload))
    await sink.write([payload[5:]])
    assert await sink.finish() == payload
    assert unfinished.take(sink.digest, sink.size) is None  # given once


async def test_of_another_size_it_is_not_that():
    unfinished, payload = Unfinished(), b"a payload"
    unfinished.keep(await part_of(payload, 5))
    assert unfinished.take(hashlib.sha256(payload).digest(), 100) is None


async def test_nothing_and_files_are_not_kept(tmp_path, nursery):
    unfinished = Unfinished()
    unfinished.keep(await part_of(b"a payload", 0))
    sink = await part_of(b"a payload", 5, SpoolRule(0, tmp_path))
    assert list(tmp_path.iterdir())
    unfinished.keep(sink)
    assert len(unfinished) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [3, 5])
async def test_of_two_calls_for_one_payload_the_longer_part_is_kept(first):
    unfinished, payload = Unfinished(), b"a payload"
    for received in (first, 8 - first):
        unfinished.keep(await part_of(payload, received))
    assert unfinished.take(hashlib.sha256(payload).digest(), len(payload)).received == 5


async def test_the_oldest_go_first_beyond_the_bound():
    unfinished, payloads = Unfinished(largest=10), [b"payload %d" % number for number in range(4)]
    for payload in payloads:
        unfinished.keep(await part_of(payload, 4))
    there = [unfinished.take(hashlib.sha256(each).digest(), len(each)) is not None for each in payloads]
    assert there == [False, False, True, True]
