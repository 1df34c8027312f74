"""What a node keeps of earlier payloads: as long as they are needed, whole or not at all."""

import hashlib
from dataclasses import replace

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


class Sender:
    """Gives the payloads that it has, and counts."""

    def __init__(self, payloads):
        self.payloads, self.given = payloads, 0

    async def __call__(self, digest, size):
        found = self.payloads.get(digest)
        assert found is None or len(found) == size
        self.given += found is not None
        return found


async def take(earlier, member, payload, peer):
    """What a gatherer does; `peer` has everything. The number of payloads that were fetched beside it."""
    sender = Sender(peer)
    assert await earlier.complete(member, payload, sender)
    await earlier.settle(member, payload)
    return sender.given


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
    assert await earlier.complete(1, payloads[3], Sender(alice.store))
    assert files(earlier) != before
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


async def test_each_payload_of_a_chain_is_looked_into_once(journal):
    alice, payloads = sent(30)
    looked = []

    def reference(spec, payload):
        looked.append(sha256(payload))
        return TOPK.reference(spec, payload)

    earlier = EarlierPayloads(journal, replace(TOPK, reference=reference), SPEC)
    assert await earlier.complete(1, payloads[29], Sender(alice.store))
    assert looked == [sha256(payload) for payload in reversed(payloads)]


async def test_a_payload_whose_sender_does_not_give_what_it_builds_on_is_incomplete(earlier):
    alice, payloads = sent(4)
    del alice.store[sha256(payloads[0])]
    sender = Sender(alice.store)
    assert not await earlier.complete(1, payloads[3], sender)
    assert sender.given == 2
    await earlier.settle(1, None)
    assert files(earlier) == set()


async def test_a_large_payload_that_was_fetched_as_a_file_is_taken_over(earlier, tmp_path):
    _, payloads = sent(2)
    fetched = tmp_path / "fetched"
    fetched.write_bytes(payloads[0])

    async def give(_digest, _size):
        return fetched

    assert await earlier.complete(1, payloads[1], give)
    assert not fetched.exists()
    assert files(earlier) == {sha256(payloads[0]).hex()}


async def test_a_payload_that_is_none_of_the_codec_asks_for_nothing(earlier):
    sender = Sender({})
    assert await earlier.complete(1, b"garbage", sender)
    assert sender.given == 0


async def test_an_endless_chain_is_not_followed(earlier):
    _, payloads = sent(2)
    at = payloads[1].index(sha256(payloads[0]))
    before = payloads[1]
    made = {}
    for number in range(60):  # each names the one before it, all at the same depth
        made[sha256(before)] = before
        link = sha256(before) + len(before).to_bytes(8, "big")
        before = payloads[1][:at] + link + payloads[1][at + 40 :] + bytes([number])
    made[sha256(payloads[0])] = payloads[0]
    sender = Sender(made)
    assert await earlier.complete(1, before, sender)
    assert sender.given == TOPK.depth


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
    assert await plain.complete(1, payload, Sender({}))
    assert plain.announced(5) is None
    assert not plain.directory.exists()
