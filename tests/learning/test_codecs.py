import hashlib
import math
import tracemalloc

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from node.errors import ConfigError, UpdateError
from node.learning import codec_bfloat16, codec_int8
from node.learning.codec_types import model_tag
from node.learning.codec_zstd import packed_limit, unpack
from node.learning.codecs import codec
from node.learning.parameters import parameter_spec

SPEC = parameter_spec(nn.Linear(99, 6))  # 600 numbers: two whole blocks and a part of one
STATELESS = ["float32", "bfloat16", "int8", "float32+zstd", "bfloat16+zstd", "int8+zstd"]
NAMES = [*STATELESS, "topk:0.05", "topk:0.5", "topk:0.001+zstd", "topk:0.05+zstd"]
FLOATS = npst.arrays(np.float32, SPEC.size, elements=st.floats(-(2.0**100), 2.0**100, width=32))


def numbers(seed=0, scale=1.0):
    return scale * torch.randn(SPEC.size, generator=torch.Generator().manual_seed(seed))


def payload_of(name, flat):
    return codec(name).encode(SPEC, flat, None).payload


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_answers_to_the_name_that_members_sign(name):
    assert codec(name).name == name


MISSPELT = ["", "int4", "float32+", "+zstd", "int8+gzip", "int8+zstd+zstd", "topk", "topk:", "topk:.05", "topk:0.050"]
OUTSIDE = ["topk:5", "topk:0.0001", "topk:0.51", "topk:nan", "topk:1e-2", "topk:0.05 ", "Int8"]


@pytest.mark.parametrize("name", MISSPELT + OUTSIDE)
def test_any_other_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(ConfigError, match=r"choose one of float32, bfloat16, int8, topk:RATIO|such as topk:0\.2"):
        codec(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_give_the_same_bytes_and_those_the_same_bits(name):
    payload = payload_of(name, numbers())
    assert payload == payload_of(name, numbers().clone())
    first, second = codec(name).decode(SPEC, payload), codec(name).decode(SPEC, bytearray(payload))
    assert torch.equal(first.view(torch.int32), second.view(torch.int32))
    assert codec(name).reference(SPEC, payload) is None


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_is_larger_than_the_limit_known_beforehand(name):
    for flat in (numbers(), torch.zeros(SPEC.size), numbers(scale=1e30)):
        assert len(payload_of(name, flat)) <= codec(name).size_limit(SPEC)


@pytest.mark.parametrize("name", ["float32", "float32+zstd"])
def test_float32_is_exact(name):
    decoded = codec(name).decode(SPEC, payload_of(name, numbers()))
    assert torch.equal(decoded, numbers())
    assert codec(name).encode(SPEC, numbers(), None).residual is None


def test_zstd_changes_the_bytes_only():
    for name in ("bfloat16", "int8"):
        plain, packed = payload_of(name, numbers()), payload_of(f"{name}+zstd", numbers())
        assert zstandard.decompress(packed) == plain


@given(FLOATS)
@settings(deadline=None)
def test_bfloat16_keeps_eight_bits_of_every_number(array):
    flat = torch.from_numpy(array)
    encoded = codec("bfloat16").encode(SPEC, flat, None)
    decoded = codec("bfloat16").decode(SPEC, encoded.payload)
    assert bool(((decoded - flat).abs() <= flat.abs() * 2**-8 + 1e-40).all())
    assert torch.equal(decoded, flat.to(torch.bfloat16).float())
    torch.testing.assert_close(decoded + encoded.residual, flat)


@given(FLOATS)
@settings(deadline=None)
def test_int8_is_off_by_at_most_half_a_step_of_the_block(array):
    flat = torch.from_numpy(array)
    encoded = codec("int8").encode(SPEC, flat, None)
    decoded = codec("int8").decode(SPEC, encoded.payload)
    for start in range(0, SPEC.size, codec_int8.BLOCK):
        block = slice(start, start + codec_int8.BLOCK)
        step = float(flat[block].abs().max()) / 127
        most = step / 2 * (1 + 1e-5) + 2**-143  # a subnormal step is off by up to 2**-150, 127 steps by less than this
        assert float((decoded - flat)[block].abs().max()) <= most
    torch.testing.assert_close(decoded + encoded.residual, flat)


def test_int8_takes_the_largest_numbers_there_are():
    flat = torch.full((SPEC.size,), torch.finfo(torch.float32).max)
    torch.testing.assert_close(codec("int8").decode(SPEC, payload_of("int8", flat)), flat, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "int8+zstd"])
def test_what_rounding_left_out_is_sent_later(name):
    flat, rounds, residual, total = numbers(), 50, None, torch.zeros(SPEC.size)
    for _ in range(rounds):
        encoded = codec(name).encode(SPEC, flat, residual)
        residual = encoded.residual
        total += codec(name).decode(SPEC, encoded.payload)
    once = codec(name).decode(SPEC, payload_of(name, flat))
    assert float((total / rounds - flat).abs().max()) < float((once - flat).abs().max()) / 10


def test_int8_saves_four_fifths_less_the_scales():
    spec = parameter_spec(nn.Linear(784, 10))
    assert spec.payload_size / codec("int8").size_limit(spec) > 3.9


def test_the_int8_bytes_are_those_of_the_protocol():
    spec = parameter_spec(nn.Linear(2, 1))
    payload = codec("int8").encode(spec, torch.tensor([-127.0, 63.6, 0.4]), None).payload
    tag = hashlib.sha256(spec.header).digest()[:8]
    assert payload == b"int8" + tag + np.array([1.0], dtype="<f4").tobytes() + bytes([129, 64, 0])


def test_the_bfloat16_bytes_are_a_safetensors_file():
    from safetensors.torch import load

    tensors = load(payload_of("bfloat16", numbers()))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == dict(zip(SPEC.names, SPEC.shapes, strict=True))
    assert all(t.dtype == torch.bfloat16 for t in tensors.values())


@pytest.mark.parametrize("name", STATELESS)
def test_another_models_payload_is_refused(name):
    other = parameter_spec(nn.Sequential(nn.Linear(99, 5), nn.Linear(99, 1)))  # as many numbers
    assert other.size == SPEC.size
    with pytest.raises(UpdateError):
        codec(name).decode(other, payload_of(name, numbers()))


@pytest.mark.parametrize("name", STATELESS)
@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p + b"\0", lambda p: b"", lambda p: p[:7]])
def test_a_payload_of_another_length_is_refused(name, change):
    with pytest.raises(UpdateError):
        codec(name).decode(SPEC, change(payload_of(name, numbers())))


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf, 3e36])
def test_a_scale_that_no_encoder_writes_is_refused(scale):
    payload = bytearray(payload_of("int8", numbers()))
    payload[12:16] = np.array([scale], dtype="<f4").tobytes()
    with pytest.raises(UpdateError, match="scale"):
        codec("int8").decode(SPEC, payload)


def test_the_byte_that_no_encoder_writes_is_refused():
    payload = bytearray(payload_of("int8", numbers()))
    payload[-1] = 128
    with pytest.raises(UpdateError, match="-128"):
        codec("int8").decode(SPEC, payload)


@pytest.mark.parametrize("word", [0x7F80, 0xFF80, 0x7FC0])
def test_a_bfloat16_that_is_not_finite_is_refused(word):
    payload = bytearray(payload_of("bfloat16", numbers()))
    payload[-2:] = word.to_bytes(2, "little")
    with pytest.raises(UpdateError, match="finite"):
        codec("bfloat16").decode(SPEC, payload)


@pytest.mark.parametrize("name", NAMES)
@given(noise=st.binary(max_size=4000))
@settings(max_examples=60, deadline=None)
def test_garbage_is_an_update_error_and_nothing_else(name, noise):
    for payload in (noise, payload_of("int8", numbers())[:12] + noise, zstandard.compress(noise)):
        with pytest.raises(UpdateError):
            codec(name).decode(SPEC, payload)


@pytest.mark.parametrize("name", NAMES)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_damaged_payload_gives_finite_numbers_or_an_update_error(name, changes):
    payload = bytearray(payload_of(name, numbers()))
    for position, flip in changes:
        payload[position % len(payload)] ^= flip
    try:
        flat = codec(name).decode(SPEC, payload)
    except UpdateError:
        return
    assert flat.shape == (SPEC.size,)
    assert bool(torch.isfinite(flat).all())


def zstd_frame(content_size, blocks):
    """A frame whose RLE blocks of 128 KiB say nothing of what the header promises."""
    header = bytes.fromhex("28b52ffd") + bytes([0xA0]) + content_size.to_bytes(4, "little")
    kinds = [(1 << 1) | (i == blocks - 1) for i in range(blocks)]
    return header + b"".join(((1 << 17 << 3) | kind).to_bytes(3, "little") + b"\0" for kind in kinds)


@pytest.mark.parametrize(
    "bomb",
    [
        zstandard.compress(bytes(1 << 27)),  # honest about its size
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24)),
        zstd_frame(100, 1000),  # promises little, unpacks to 131 MB
        zstd_frame(2**32 - 1, 1),  # promises 4 GB
        zstandard.compress(b"") + zstandard.compress(bytes(1 << 24)),
    ],
    ids=["honest", "silent", "modest", "boastful", "second frame"],
)
@pytest.mark.parametrize("name", ["float32+zstd", "topk:0.05+zstd"])
def test_a_compression_bomb_costs_no_more_memory_than_an_honest_update(name, bomb):
    tracemalloc.start()
    try:
        with pytest.raises(UpdateError):
            codec(name).decode(SPEC, bomb)
        assert tracemalloc.get_traced_memory()[1] < 20 * SPEC.payload_size
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_packing_never_exceeds_its_bound(content):
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    assert len(packed) <= packed_limit(len(content))
    assert unpack(packed, len(content)) == content


def test_decoding_gives_the_bits_it_always_gave():
    """Old snapshots are audited with new versions: these hashes must never change."""
    body = np.arange(3, dtype="<f4").tobytes() + bytes(i % 127 for i in range(SPEC.size))
    flat = codec("int8").decode(SPEC, b"int8" + model_tag(SPEC) + body)
    assert hashlib.sha256(flat.numpy().astype("<f4").tobytes()).hexdigest() == INT8_BITS
    words = b"".join((0x3F00 + i % 256).to_bytes(2, "little") for i in range(SPEC.size))
    flat = codec("bfloat16").decode(SPEC, codec_bfloat16.header(SPEC) + words)
    assert hashlib.sha256(flat.numpy().astype("<f4").tobytes()).hexdigest() == BFLOAT16_BITS


INT8_BITS = "5f8b33db7bc9015be0f5f3aa906727e61a089cc1e924cc664625284ff4b9326e"
BFLOAT16_BITS = "039c4517d37dd860962d3b1562118e978c2cb0f8d3e56dc1a7e566be3f05f8e4"
