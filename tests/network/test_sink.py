import hashlib
import os
from pathlib import Path

import pytest

from node.errors import NetworkError
from node.network.sink import Sink, SpoolRule


def sink_for(payload: bytes, rule: SpoolRule) -> Sink:
    return Sink(hashlib.sha256(payload).digest(), len(payload), rule)


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 9_000_000])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_what_went_in_comes_out(nursery, tmp_path, size, in_memory):
    payload = os.urandom(size)
    sink = sink_for(payload, SpoolRule(1 << 30 if in_memory else 0, tmp_path))
    nursery.start_soon(sink.run)
    for start in range(0, size, 70_000):
        await sink.write([payload[start : start + 30_000], payload[start + 30_000 : start + 70_000]])
    stored = await sink.finish()
    content = stored.read_bytes() if isinstance(stored, Path) else stored
    assert content == payload
    assert isinstance(stored, bytes) == in_memory
    sink.discard()
    assert len(list(tmp_path.iterdir())) == (0 if in_memory else 1)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_another_content_is_refused_and_a_second_try_may_be_right(nursery, tmp_path, size):
    payload = os.urandom(size)
    sink = sink_for(payload, SpoolRule(0, tmp_path))
    nursery.start_soon(sink.run)
    await sink.write([b"\x00" * size])
    assert await sink.finish() is None
    await sink.restart()
    assert sink.received == 0
    await sink.write([payload])
    assert isinstance(await sink.finish(), Path)
    nursery.cancel_scope.cancel()


async def test_what_was_not_finished_leaves_no_file(nursery, tmp_path):
    sink = sink_for(bytes(9_000_000), SpoolRule(0, tmp_path))
    nursery.start_soon(sink.run)
    await sink.write([bytes(5_000_000)])
    sink.discard()
    assert list(tmp_path.iterdir()) == []
    nursery.cancel_scope.cancel()


async def test_a_disk_that_fails_is_our_side_s_error(nursery, tmp_path):
    sink = sink_for(bytes(9_000_000), SpoolRule(0, tmp_path))
    sink._file.close()
    sink._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    nursery.start_soon(sink.run)
    with pytest.raises(NetworkError, match="free space there"):  # noqa: PT012  (either may notice)
        await sink.write([bytes(9_000_000)])
        await sink.finish()
    sink.discard()
    nursery.cancel_scope.cancel()


async def test_a_partial_file_is_gone_on_with_at_the_next_byte_and_stays(nursery, tmp_path):
    payload, path = os.urandom(9_000_000), tmp_path / "part"
    digest = hashlib.sha256(payload).digest()
    first = Sink(digest, len(payload), SpoolRule(), path)
    nursery.start_soon(first.run)
    await first.write([payload[:5_000_001]])
    await first.store()
    first.discard()
    assert path.read_bytes() == payload[:5_000_001]
    second = Sink(digest, len(payload), SpoolRule(), path)
    nursery.start_soon(second.run)
    assert second.received == 5_000_001
    await second.write([payload[5_000_001:]])
    assert await second.finish() == path
    assert path.read_bytes() == payload
    nursery.cancel_scope.cancel()


def test_a_partial_file_of_something_longer_is_begun_anew(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(bytes(11))
    sink = Sink(bytes(32), 10, SpoolRule(), path)
    assert (sink.received, path.stat().st_size) == (0, 0)
    sink.discard()
