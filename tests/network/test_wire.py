import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.network.stream.exceptions import StreamEOF

from node.errors import PeerError
from node.messages import NOTE_LIMIT, Announcement, announcement_bytes
from node.network import wire_pb2
from node.network.wire import MAX_CHUNK, Frames, announcement_message, decode, read_announcement
from tests.network.members import announce, identity

ROOT = Path(__file__).parents[2]
ALICE = identity("alice")


class Pipe:
    """A stream that holds what was written, and gives it out in pieces."""

    is_closed = False

    def __init__(self, content: bytes = b"", piece: int = 1 << 20) -> None:
        self.content = bytearray(content)
        self.piece = piece

    async def read(self, n: int | None = None) -> bytes:
        size = min(self.piece, n or self.piece)
        data = bytes(self.content[:size])
        del self.content[:size]
        if not data:
            raise StreamEOF
        return data

    async def read_pieces(self, n: int) -> list[bytes]:
        return [await self.read(n)]

    async def write_pieces(self, pieces) -> None:
        for piece in pieces:
            self.content += piece


def test_the_generated_code_is_what_the_schema_says(tmp_path):
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", "node/network/wire.proto"], cwd=ROOT, check=True)
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        generated = (tmp_path / "node/network" / name).read_text()
        assert _without_version(generated) == _without_version((ROOT / "node/network" / name).read_text())


def _without_version(text: str) -> str:
    """The numbers of the compiler's own version are of no interest."""
    lines = [line for line in text.splitlines() if not line.strip().rstrip(",").isdigit()]
    return "\n".join(line for line in lines if "Python Version" not in line)


async def test_messages_go_through_a_stream_in_any_pieces():
    for piece in (1, 3, 1 << 20):
        pipe = Pipe(piece=piece)
        frames = Frames(pipe, "peer")
        request = wire_pb2.Request(payload=wire_pb2.PayloadRequest(digest=b"d" * 32, offset=7))
        await frames.send(request)
        await frames.send(request)
        assert await frames.receive(wire_pb2.Request, 100) == request
        assert await frames.receive(wire_pb2.Request, 100) == request


@given(st.binary(min_size=1, max_size=70_000))
async def test_a_chunk_is_the_protocol_buffers_message(data):
    pipe = Pipe()
    await Frames(pipe, "peer").send_chunk(data)
    assert bytes(pipe.content[4:]) == wire_pb2.Chunk(data=data).SerializeToString()
    assert int.from_bytes(pipe.content[:4], "big") == len(pipe.content) - 4
    frames = Frames(pipe, "peer")
    assert await frames.chunk_size() == len(data)


async def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    pipe = Pipe((2**31).to_bytes(4, "big"))
    with pytest.raises(PeerError, match="over 100"):
        await Frames(pipe, "peer").receive(wire_pb2.Request, 100)


@given(st.binary(max_size=200))
async def test_garbage_is_a_peer_s_fault_and_nothing_else(data):
    for content in (data, len(data).to_bytes(4, "big") + data):
        with suppress(PeerError):
            await Frames(Pipe(content), "peer").receive(wire_pb2.Reply, 100)
        with suppress(PeerError):
            assert await Frames(Pipe(content), "peer").chunk_size() <= MAX_CHUNK


@pytest.mark.parametrize(
    "body",
    [b"", b"\x0a", b"\x0a\x00", b"\x0a\x05abcd", b"\x0a\x03abcd", b"\x12\x04abcd", b"\x0a\xff\xff\xff\xff\xff\x01ab"],
)
async def test_a_chunk_that_lies_about_its_length_is_refused(body):
    with pytest.raises(PeerError):
        await Frames(Pipe(len(body).to_bytes(4, "big") + body), "peer").chunk_size()


def test_deeply_nested_messages_are_refused():
    bomb = b""
    for _ in range(300):
        bomb = b"\x0a" + _varint(len(bomb)) + bomb
    with pytest.raises(PeerError):
        decode(wire_pb2.Reply, b"\x12\xff\xff\xff\xff\x0f" + bomb, "peer")


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_an_announcement_survives_the_wire():
    announcement = announce(ALICE, 3, b"payload")
    assert read_announcement(announcement_message(announcement)) == announcement


@pytest.mark.parametrize(
    "change",
    [
        {"round": 4},
        {"size": 8},
        {"size": 0},
        {"codec": "int8"},
        {"codec": "x" * 65},
        {"session_id": 1},
        {"digest": b"e" * 32},
        {"digest": b"e" * 31},
        {"signature": b"s" * 64},
        {"signature": b""},
        {"peer_id": identity("bob").peer_id},
    ],
)
def test_an_announcement_that_was_altered_is_refused(change):
    message = announcement_message(replace(announce(ALICE, 3, b"payload"), **change))
    with pytest.raises(PeerError):
        read_announcement(message)


def test_the_signature_of_a_known_announcement_alone_is_taken_on_trust():
    announcement = announce(ALICE, 3, b"payload")
    forged = replace(announcement, signature=b"s" * 64)
    asked = []

    def known(each):
        asked.append(each)
        return each == announcement

    assert read_announcement(announcement_message(announcement), known) == announcement
    with pytest.raises(PeerError, match="not signed"):
        read_announcement(announcement_message(forged), known)
    assert asked == [announcement, forged]
    assert read_announcement(announcement_message(forged), lambda each: each == forged) == forged


def test_a_note_is_signed_and_arrives():
    message = announcement_bytes(1, 2, b"d" * 32, 3, "float32", b"steps")
    told = Announcement(1, 2, b"d" * 32, 3, "float32", ALICE.peer_id, ALICE.sign(message), b"steps")
    assert read_announcement(announcement_message(told)) == told
    altered = announcement_message(told)
    altered.note = b"other"
    with pytest.raises(PeerError, match="not signed"):
        read_announcement(altered)


def test_a_note_cannot_pass_for_a_longer_codec_name():
    noted = announcement_bytes(1, 2, b"d" * 32, 3, "float32", b"steps")
    assert noted != announcement_bytes(1, 2, b"d" * 32, 3, "float32steps")
    assert noted != announcement_bytes(1, 2, b"d" * 32, 3, "float", b"32steps")


def test_a_note_over_the_limit_is_refused():
    note = b"n" * (NOTE_LIMIT + 1)
    signature = ALICE.sign(announcement_bytes(1, 2, b"d" * 32, 3, "float32", note))
    told = Announcement(1, 2, b"d" * 32, 3, "float32", ALICE.peer_id, signature, note)
    with pytest.raises(PeerError, match=f"note of {NOTE_LIMIT + 1} bytes"):
        read_announcement(announcement_message(told))
