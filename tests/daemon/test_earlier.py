"""What a node keeps of earlier payloads: as long as they are needed, whole or not at all."""

import hashlib

import pytest

from node.daemon.earlier import EarlierPayloads
from node.daemon.journal import Journal
from node.learning.codecs import FLOAT32, codec
from tests.learning.test_codecs_topk import SPEC, numbers, sent

TOPK = codec("topk:0.05")


def sha256(content):
    return hashlib.sha256(content).digest()


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path, keep=40)
    yield opened
    opened.close()


@pytest.fixture
def earlier(journal):
    return EarlierPayloads(journal, TOPK, SPEC)


def files(earlier):
    return {path.name for path in earlier.directory.iterdir()}


async def take(earlier, member, payload, peer):
    """What a gatherer does; `peer` has everything. The number of payloads that were fetched beside it."""
    fetched = 0
    while (missing := await earlier.missing(payload)) is not None:
        digest, size = missing
        assert len(peer[digest]) == size
        await earlier.save(member, peer[digest])
        fetched += 1
    await earlier.settle(member, payload)
    return fetched


async def test_a_late_member_fetches_the_whole_chain_and_then_one_at_a_time(earlier):
    alice, payloads = sent(5)
    assert await take(earlier, 1, payloads[3], alice.store) == 3
    assert await take(earlier, 1, payloads[4], alice.store) == 0
    assert TOPK.decode(SPEC, payloads[4], earlier.resolve).equal(alice.read(payloads[4]))


async def test_what_the_newest_payload_does_not_need_is_forgotten(earlier):
    alice, payloads = sent(40)  # a key frame after 31 differences
    for payload in payloads[:32]:
        await take(earlier, 1, payload, alice.store)
    assert files(earlier) == {sha256(payload).hex() for payload in payloads[:32]}
    await take(earlier, 1, payloads[32], alice.store)
    assert files(earlier) == {sha256(payloads[32]).hex()}


async def test_a_refused_payload_leaves_what_is_needed(earlier):
    alice, payloads = sent(4)
    await take(earlier, 1, payloads[1], alice.store)
    before = files(earlier)
    await earlier.save(1, payloads[2])
    await earlier.settle(1, None)
    assert files(earlier) == before
    assert await take(earlier, 1, payloads[3], alice.store) == 1


async def test_a_damaged_file_is_fetched_again(earlier):
    alice, payloads = sent(3)
    await take(earlier, 1, payloads[1], alice.store)
    (earlier.directory / sha256(payloads[1]).hex()).write_bytes(b"damaged")
    assert await take(earlier, 1, payloads[2], alice.store) == 1
    assert TOPK.decode(SPEC, payloads[2], earlier.resolve).equal(alice.read(payloads[2]))


async def test_members_with_the_same_payloads_share_them(earlier):
    alice, payloads = sent(3)
    await take(earlier, 1, payloads[2], alice.store)
    await take(earlier, 2, payloads[0], alice.store)
    await take(earlier, 1, TOPK.encode(SPEC, numbers(9), None).payload, alice.store)
    assert sha256(payloads[0]).hex() in files(earlier)
    assert sha256(payloads[2]).hex() not in files(earlier)


async def test_a_payload_that_is_none_of_the_codec_asks_for_nothing(earlier):
    assert await earlier.missing(b"garbage") is None


async def test_an_endless_chain_is_not_followed(earlier):
    _, payloads = sent(2)
    at = payloads[1].index(sha256(payloads[0]))
    before, fetched = payloads[1], 0
    made = {}
    for number in range(60):  # each names the one before it, all at the same depth
        made[sha256(before)] = before
        link = sha256(before) + len(before).to_bytes(8, "big")
        before = payloads[1][:at] + link + payloads[1][at + 40 :] + bytes([number])
    made[sha256(payloads[0])] = payloads[0]
    while (missing := await earlier.missing(before)) is not None:
        await earlier.save(1, made[missing[0]])
        fetched += 1
    assert fetched <= TOPK.depth


async def test_own_payloads_come_from_the_journal(journal, earlier):
    _, payloads = sent(3)
    for round, payload in enumerate(payloads, 1):
        journal.save_update(round, payload, sha256(payload))
    assert earlier.announced(3) == sha256(payloads[1])
    assert earlier.announced(1) is None
    assert list(await earlier.builds_on(payloads[2])) == [payloads[1], payloads[0]]


async def test_a_codec_without_references_keeps_nothing(journal):
    plain = EarlierPayloads(journal, FLOAT32, SPEC)
    payload = FLOAT32.encode(SPEC, numbers(), None).payload
    await plain.settle(1, payload)
    assert await plain.missing(payload) is None
    assert plain.announced(5) is None
    assert not plain.directory.exists()
