import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.bulk import decode_mixes
from ledger.errors import PayloadError
from ledger.payload import (
    HOLD,
    LARGEST_ROUND,
    binding_message,
    check_record,
    decode_mix,
    encode_mix,
    entry_of,
    first_slot,
    head_of,
    next_slot,
    session_id_of,
    verify_binding,
)
from ledger.text import cid_of, peer_id_of
from ledger.values import ABSENT, Input, Membership, Mix, Record

ACCOUNT = "0x" + "11" * 20
hashes = st.binary(min_size=32, max_size=32)


@st.composite
def mixes(draw):
    members = sorted(draw(st.sets(st.integers(0, 65535), min_size=1, max_size=70)))
    total = draw(st.just(65535) | st.integers(1, 65535))
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=len(members) - 1, max_size=len(members) - 1)))
    weights = np.diff([0, *cuts, total]).tolist()
    lags = [draw(st.integers(-127, 127) if weight else st.integers(-128, 127)) for weight in weights]
    return Mix(
        members=draw(st.integers(1, 65535)),
        inputs=tuple(Input(*one) for one in zip(members, weights, lags, strict=True)),
        mixed_hash=draw(hashes),
        snapshot=draw(st.none() | hashes),
        epsilon=draw(st.none() | st.integers(0, 2**32 - 1).map(lambda millionths: millionths / 1_000_000)),
    )


@st.composite
def damaged(draw):
    """A mix's bytes with some cut off, added or changed."""
    payload = bytearray(encode_mix(draw(mixes())))
    for at in draw(st.lists(st.integers(0, len(payload) - 1), max_size=3)):
        payload[at] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(payload)) | st.just(len(payload)))
    return bytes(payload[:cut]) + draw(st.binary(max_size=6))


@given(mixes())
def test_a_mix_comes_back_as_it_was(mix):
    assert decode_mix(encode_mix(mix)) == mix


@given(damaged() | st.binary(max_size=300))
@example(b"\x03")
def test_bytes_are_either_a_mix_with_just_these_bytes_or_refused(payload):
    try:
        mix = decode_mix(payload)
    except PayloadError:
        return
    assert encode_mix(mix) == payload


@given(st.lists(mixes().map(encode_mix) | damaged() | st.binary(max_size=80), max_size=6))
def test_many_mixes_at_once_are_told_as_one_by_one(payloads):
    found, at = decode_mixes(payloads), 0
    for i, payload in enumerate(payloads):
        try:
            mix, fault = decode_mix(payload), None
        except PayloadError as error:
            mix, fault = None, str(error)
        header, count = found.headers[i], int(found.counts[i])
        assert (header is None, found.faults[i]) == (mix is None, fault)
        if mix is not None:
            assert (header.members, header.mixed_hash, header.snapshot) == (mix.members, mix.mixed_hash, mix.snapshot)
            assert np.isnan(header.epsilon) if mix.epsilon is None else header.epsilon == mix.epsilon
        columns = (one[at : at + count].tolist() for one in (found.peers, found.weights, found.lags))
        inputs = tuple(Input(*one) for one in zip(*columns, strict=True))
        assert inputs == (mix.inputs if mix else ())
        at += count
    assert at == len(found.peers)


def test_a_mix_has_the_bytes_of_the_protocol():
    mix = Mix(4, (Input(0, 65535, 0), Input(258, 0, ABSENT)), b"\x01" * 32, b"\x02" * 32, 1.000001)
    expected = "03 0004" + "01" * 32 + "02" * 32 + "000f4241" + "0000ffff00" + "0102000080"
    assert encode_mix(mix) == bytes.fromhex(expected)


def test_epsilon_is_rounded_up_to_millionths():
    assert decode_mix(encode_mix(Mix(1, (Input(0, 65535),), bytes(32), None, 0.1234561))).epsilon == 0.123457


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (Mix(2, (Input(0, 65535), Input(1, 1)), bytes(32)), "add up to 65536, not to 1 to 65535"),
        (Mix(2, (Input(0, 0),), bytes(32)), "add up to 0"),
        (Mix(2, (), bytes(32)), "add up to 0"),
        (Mix(2, (Input(1, 65535), Input(0, 0)), bytes(32)), "input 0 comes after 1"),
        (Mix(2, (Input(0, 65535), Input(0, 0)), bytes(32)), "input 0 comes after 0"),
        (Mix(2, (Input(0, 65535, ABSENT),), bytes(32)), "absent but has weight 65535"),
        (Mix(2, (Input(0, 65535, 200),), bytes(32)), "out of range"),
        (Mix(0, (Input(0, 65535),), bytes(32)), "among 0 members"),
        (Mix(1, (Input(0, 65535),), bytes(31)), "mixed hash has 31 bytes"),
        (Mix(1, (Input(0, 65535),), bytes(32), bytes(5)), "snapshot's digest has 5 bytes"),
        (Mix(1, (Input(0, 65535),), bytes(32), None, 5000.0), "epsilon of 5000.0"),
        (Mix(1, (Input(0, 65535),), bytes(32), None, float("nan")), "epsilon of nan"),
    ],
)
def test_a_mix_that_can_not_be_is_not_written(mix, words):
    with pytest.raises(PayloadError, match=words):
        encode_mix(mix)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Record(2**64, 1, bytes(31) + b"1"), "out of range"),
        (Record(1, LARGEST_ROUND + 1, bytes(31) + b"1"), "out of range"),
        (Record(1, 1, None), "carries no mix"),
        (Record(1, 1, bytes(32)), "zeros marks a closing record"),
        (Record(1, 1, bytes(20)), "update hash has 20 bytes"),
    ],
)
def test_a_record_that_can_not_be_is_refused(record, words):
    with pytest.raises(PayloadError, match=words):
        check_record(record)


@given(st.lists(st.tuples(st.booleans(), hashes.filter(any), st.integers(0, 3)), max_size=8), st.integers(0, 7))
@settings(max_examples=50)
def test_a_hash_chain_tells_every_change_and_keeps_the_next_round(plan, which):
    mix = Mix(1, (Input(0, 65535),), bytes(32))
    round, slots, entries = 1, [first_slot(ACCOUNT, 7, 0, Membership(bytes(32), bytes(64)))], []
    for closing, update, skipped in plan:
        round += skipped
        entries.append(entry_of(ACCOUNT, Record(7, round, None if closing else update, mix)))
        slots.append(next_slot(slots[-1], entries[-1]))
        round += not closing
        assert head_of(slots[-1]).next_round == round
        assert not slots[-1] & HOLD
    if entries:
        which %= len(entries)
        other = bytearray(entries[which])
        other[-1] ^= 1
        slot = next_slot(slots[which], bytes(other))
        for entry in entries[which + 1 :]:
            slot = next_slot(slot, entry)
        assert slot != slots[-1]


def test_identifiers_are_those_of_ipfs_and_libp2p():
    digest = hashlib.sha256(b"").digest()
    assert cid_of(digest) == "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert peer_id_of(bytes(32)) == "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw"


def test_a_session_id_is_claimed_by_its_creator_alone():
    assert session_id_of(ACCOUNT, bytes(32)) != session_id_of("0x" + "22" * 20, bytes(32))


def test_a_binding_is_of_one_chain_contract_session_and_account():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public, message = key.public_key().public_bytes_raw(), binding_message(1, ACCOUNT, 2, ACCOUNT)
    assert verify_binding(public, key.sign(message), message)
    others = [(3, ACCOUNT, 2, ACCOUNT), (1, "0x" + "22" * 20, 2, ACCOUNT), (1, ACCOUNT, 3, ACCOUNT)]
    for other in [*others, (1, ACCOUNT, 2, "0x" + "22" * 20)]:
        assert not verify_binding(public, key.sign(message), binding_message(*other))
    assert not verify_binding(b"short", b"", message)


def test_a_key_that_nobody_owns_binds_nothing():
    """The neutral element as key and signature fits every message in the bare equation of RFC 8032."""
    neutral = b"\x01" + bytes(31)
    message = binding_message(31337, "0x" + "11" * 20, 7, "0x" + "22" * 20)
    assert not verify_binding(neutral, neutral + bytes(32), message)
