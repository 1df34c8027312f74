import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from node.errors import UpdateError
from node.learning.codec_sparse import BLOCK, Layout, decode_gaps, decode_sparse, encode_gaps, encode_sparse
from node.learning.codec_topk import CHAIN, PREFIX
from node.learning.codec_types import model_tag
from node.learning.codecs import Past, ReferenceMissing, chain, codec
from node.learning.parameters import parameter_spec

SPEC = parameter_spec(nn.Linear(99, 20))  # 2,000 numbers
TOPK, PACKED = codec("topk:0.05"), codec("topk:0.05+zstd")
LAYOUT = Layout(100, 2000)  # four low bits, one block


def numbers(seed=0):
    return torch.randn(SPEC.size, generator=torch.Generator().manual_seed(seed))


class Sender:
    """A member that remembers what the codec wants remembered, and its payloads by hash."""

    def __init__(self, chosen=TOPK):
        self.codec, self.store = chosen, {}
        self.residual = self.announced = None

    def send(self, flat, start):
        past = Past(start, self.announced, self.store.get)
        encoded = self.codec.encode(SPEC, flat, self.residual, past)
        self.residual = encoded.residual
        self.announced = hashlib.sha256(encoded.payload).digest()
        self.store[self.announced] = encoded.payload
        return encoded.payload

    def read(self, payload):
        return self.codec.decode(SPEC, payload, self.store.get)


def sent(rounds, chosen=TOPK):
    """A sender alone that walks at random, and its payloads."""
    alice, flat, payloads = Sender(chosen), numbers(), []
    for round in range(rounds):
        start = flat if not payloads else alice.read(payloads[-1])
        payloads.append(alice.send(start + numbers(round + 1), start))
    return alice, payloads


@pytest.mark.parametrize("chosen", [TOPK, PACKED], ids=["plain", "packed"])
def test_the_first_payload_is_a_key_frame_and_the_next_builds_on_it(chosen):
    _, (first, second) = sent(2, chosen)
    assert chosen.reference(SPEC, first) is None
    reference = chosen.reference(SPEC, second)
    assert (reference.digest, reference.size) == (hashlib.sha256(first).digest(), len(first))
    assert len(second) < len(first) / 5


@pytest.mark.parametrize("chosen", [TOPK, PACKED], ids=["plain", "packed"])
def test_a_member_alone_gets_everywhere_in_the_end(chosen):
    alice, target = Sender(chosen), numbers(1)
    start = torch.zeros(SPEC.size)
    for _ in range(CHAIN):
        start = alice.read(
            alice.send(start + (target - start - (0 if alice.residual is None else alice.residual)), start)
        )
    assert float((start - target).abs().max()) < 0.05


def test_what_is_sent_and_what_is_left_out_add_up_to_what_was_learned():
    alice, payloads = sent(6)
    learned = numbers() + sum(numbers(round + 1) for round in range(6))
    torch.testing.assert_close(alice.read(payloads[-1]) + alice.residual, learned, atol=1e-4, rtol=1e-4)


def test_the_largest_changes_are_sent_first():
    alice = Sender()
    start = alice.read(alice.send(torch.zeros(SPEC.size), torch.zeros(SPEC.size)))
    change = torch.zeros(SPEC.size)
    change[7:2000:20] = torch.full((100,), 1.5)
    change[8] = 0.5
    decoded = alice.read(alice.send(start + change, start))
    assert decoded[8] == 0
    torch.testing.assert_close(decoded[7:2000:20], change[7:2000:20])


def test_members_that_only_mix_agree_on_the_mean_of_what_they_began_with():
    members, mixed = (Sender(), Sender()), numbers(3)
    goals = [numbers(1), numbers(2)]
    for _ in range(3 * CHAIN):
        payloads = [member.send(goal, mixed) for member, goal in zip(members, goals, strict=True)]
        copies = [member.read(payload) for member, payload in zip(members, payloads, strict=True)]
        mixed = (copies[0] + copies[1]) / 2
        goals = [mixed, mixed]  # nobody learns anything more
    mean = (numbers(1) + numbers(2)) / 2
    assert float((mixed - mean).norm() / mean.norm()) < 0.05
    assert float((copies[0] - copies[1]).norm() / mean.norm()) < 0.05


def test_a_key_frame_ends_a_long_chain():
    alice, payloads = sent(CHAIN + 2)
    lengths = [len(chain(TOPK, SPEC, payload, alice.store.get)) for payload in payloads]
    assert lengths == [*range(CHAIN + 1), 0]


def test_the_chain_names_every_payload_that_decoding_needs():
    alice, payloads = sent(5)
    names = chain(TOPK, SPEC, payloads[-1], alice.store.get)
    assert [name.digest for name in names] == [hashlib.sha256(payload).digest() for payload in payloads[-2::-1]]
    needed = {name.digest: alice.store[name.digest] for name in names}
    assert torch.equal(TOPK.decode(SPEC, payloads[-1], needed.get), alice.read(payloads[-1]))


@pytest.mark.parametrize("chosen", [TOPK, PACKED], ids=["plain", "packed"])
def test_a_peer_that_missed_payloads_is_told_which_to_fetch(chosen):
    alice, payloads = sent(6, chosen)
    held, asked = {}, 0
    while True:
        try:
            flat = chosen.decode(SPEC, payloads[-1], held.get)
            break
        except ReferenceMissing as missing:
            asked += 1
            held[missing.reference.digest] = alice.store[missing.reference.digest]
    assert asked == 5
    assert torch.equal(flat, alice.read(payloads[-1]))


def test_a_reference_that_is_damaged_on_disk_counts_as_missing():
    _, payloads = sent(2)
    damaged = {hashlib.sha256(payloads[0]).digest(): payloads[0][:-1] + b"\x01"}
    with pytest.raises(ReferenceMissing, match="fetch it"):
        TOPK.decode(SPEC, payloads[1], damaged.get)


def test_a_sender_that_lost_its_memory_sends_a_key_frame():
    for lose in (lambda m: m.store.clear(), lambda m: setattr(m, "announced", None)):
        alice, _ = sent(3)
        lose(alice)
        again = alice.send(numbers(9), numbers(9))
        assert TOPK.reference(SPEC, again) is None
    assert TOPK.reference(SPEC, TOPK.encode(SPEC, numbers(), None).payload) is None


def test_a_repeat_from_the_same_memory_gives_the_same_bytes():
    assert sent(4)[1] == sent(4)[1]


def test_a_session_of_twenty_rounds_has_less_than_a_twentieth_of_the_bytes():
    for chosen in (TOPK, PACKED):
        payloads = sent(20, chosen)[1]
        assert 20 * SPEC.payload_size / sum(map(len, payloads)) > 20


def test_the_bytes_of_a_difference_are_those_of_the_protocol():
    _, (first, second) = sent(2)
    header = b"topk" + model_tag(SPEC) + bytes([1]) + hashlib.sha256(first).digest() + len(first).to_bytes(8, "big")
    assert second.startswith(header)
    assert len(second) <= len(header) + LAYOUT.limit
    assert first.startswith(b"topk" + model_tag(SPEC) + bytes([0]))


def test_the_bits_of_a_difference_are_those_of_the_protocol():
    body = encode_sparse(Layout(3, 15), np.array([1, 2, 11]), np.array([0.5, -1.0, 1.5], np.float32))
    # skipped before each: 1, 0, 8, of which two low bits 01 00 00 and the rest 0, 0, 2 in unary 1 1 001
    assert body == np.float32(1.0).astype("<f4").tobytes() + bytes([0b01000000, 0b01000000, 0b11001000])


def link(depth, before, size=None, body=None):
    """A hostile but well-formed difference."""
    body = encode_sparse(LAYOUT, np.arange(100), np.zeros(100, np.float32)) if body is None else body
    names = hashlib.sha256(before).digest() + (len(before) if size is None else size).to_bytes(8, "big")
    return b"topk" + model_tag(SPEC) + bytes([depth]) + names + body


def test_a_chain_whose_depths_do_not_count_down_is_refused():
    _, payloads = sent(2)
    for depth, before in ((2, payloads[0]), (1, payloads[1]), (CHAIN, payloads[1])):
        store = {hashlib.sha256(payload).digest(): payload for payload in payloads}
        with pytest.raises(UpdateError, match="depth"):
            TOPK.decode(SPEC, link(depth, before), store.get)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (link(CHAIN + 1, b"x"), "at most 31"),
        (link(1, b"x", size=0), "of 0 bytes"),
        (link(1, b"x", size=2**63), "of 9223372036854775808 bytes"),
        (link(1, b"x")[: PREFIX + 20], "builds on"),
        (link(1, b"x") + bytes(5000), "at most"),
        (b"topk" + bytes(8) + b"\0" * 2000, "not a topk payload"),
        (b"topk" + model_tag(SPEC), "not a topk payload"),
        (b"topk" + model_tag(SPEC) + bytes(100), "bytes of blocks"),
    ],
)
def test_a_frame_that_no_encoder_writes_is_refused(payload, reason):
    with pytest.raises(UpdateError, match=reason):
        TOPK.decode(SPEC, payload, lambda digest: b"x")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bytes(67) + b"\xff" * 12 + b"\xe0", "give 99 positions"),
        (bytes(67) + b"\xff" * 12 + b"\xf8", "give 101 positions"),
        (bytes(67) + b"\xff" * 12 + b"\xf0\0", "bytes to spare"),
        (bytes(67) + b"\xff" * 12 + bytes(15) + b"\x0f", "reach position 2083"),
        (b"", "0 bytes for 100 numbers"),
        (bytes(67), "67 bytes for 100 numbers"),
        (bytes(67) + b"\xff" * 30, "97 bytes for 100 numbers"),
        (b"\0\0\x80\xff" + bytes(63) + b"\xff" * 12 + b"\xf0", "magnitude"),
        (b"\0\0\x80\x7f" + bytes(63) + b"\xff" * 12 + b"\xf0", "magnitude"),
        (b"\0\0\xc0\x7f" + bytes(63) + b"\xff" * 12 + b"\xf0", "magnitude"),
        (bytes(16) + b"\1" + bytes(50) + b"\xff" * 12 + b"\xf0", "fill a byte"),
    ],
)
def test_bits_that_no_encoder_writes_are_refused(body, reason):
    alice, payloads = sent(1)
    with pytest.raises(UpdateError, match=reason):
        TOPK.decode(SPEC, link(1, payloads[0], body=body), alice.store.get)


def test_a_sum_that_overflows_is_refused():
    alice = Sender()
    first = alice.send(torch.full((SPEC.size,), 3.4e38), numbers())
    body = encode_sparse(LAYOUT, np.arange(100), np.full(100, 3.4e38, np.float32))
    with pytest.raises(UpdateError, match="finite"):
        TOPK.decode(SPEC, link(1, first, body=body), alice.store.get)


@given(st.sets(st.integers(0, 1999), min_size=1, max_size=1000))
@settings(deadline=None)
def test_gaps_give_back_every_set_of_positions(positions):
    layout, ordered = Layout(len(positions), 2000), np.array(sorted(positions), dtype=np.int64)
    packed = encode_gaps(layout, ordered)
    assert len(packed) <= layout.lows + layout.unary_limit
    assert decode_gaps(layout, memoryview(packed)).tolist() == ordered.tolist()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=600))
@settings(deadline=None)
def test_numbers_come_back_as_their_sign_times_the_blocks_mean_magnitude(values):
    numbers = np.array(values, dtype=np.float32)
    layout = Layout(len(numbers), 2000)
    decoded = decode_sparse(layout, memoryview(encode_sparse(layout, np.arange(len(numbers)), numbers)))[1]
    for start in range(0, len(numbers), BLOCK):
        block, found = numbers[start : start + BLOCK], decoded[start : start + BLOCK]
        expected = np.where(block < 0, -1, 1) * np.abs(block.astype(np.float64)).mean()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-44)
        # a contraction, so error feedback converges (Stich et al., arXiv:1809.07599)
        errors = block.astype(np.float64) - found
        assert np.square(errors).sum() <= np.square(block.astype(np.float64)).sum() * (1 + 1e-6) + 1e-44


def test_positions_cost_hardly_more_than_their_entropy():
    generator = np.random.default_rng(0)
    for ratio in (0.01, 0.05, 0.1, 0.2, 0.5):
        layout = Layout(round(ratio * 100_000), 100_000)
        positions = np.sort(generator.choice(100_000, layout.count, replace=False))
        entropy = -ratio * np.log2(ratio) - (1 - ratio) * np.log2(1 - ratio)
        assert len(encode_gaps(layout, positions)) * 8 / 100_000 < 1.07 * entropy


@pytest.mark.parametrize("chosen", [TOPK, PACKED], ids=["plain", "packed"])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_damaged_difference_gives_finite_numbers_or_an_update_error(chosen, changes):
    alice, payloads = SENT[chosen.name]
    payload = bytearray(payloads[-1])
    for position, flip in changes:
        payload[position % len(payload)] ^= flip
    try:
        flat = alice.read(payload)
    except UpdateError:
        return
    assert flat.shape == (SPEC.size,)
    assert bool(torch.isfinite(flat).all())


def test_decoding_gives_the_bits_it_always_gave():
    """Old snapshots are audited with new versions: this hash must never change."""
    levels = bytes(i % 127 for i in range(SPEC.size))
    key = b"topk" + model_tag(SPEC) + b"\0" + np.linspace(0, 1, 8, dtype="<f4").tobytes() + levels
    signs = np.where(np.arange(100) % 3, 0.3, -0.3).astype(np.float32)
    body = encode_sparse(LAYOUT, np.arange(100) ** 2 // 6 + np.arange(100), signs)
    flat = TOPK.decode(SPEC, link(1, key, body=body), {hashlib.sha256(key).digest(): key}.get)
    assert hashlib.sha256(flat.numpy().astype("<f4").tobytes()).hexdigest() == TOPK_BITS


TOPK_BITS = "b3227348a75c3d548505f833471d84d510c40c44530a3b7e883a75893cb81cca"
SENT = {chosen.name: sent(3, chosen) for chosen in (TOPK, PACKED)}
