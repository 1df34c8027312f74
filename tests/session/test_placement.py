"""Who keeps whose snapshots: the same for everybody, balanced, and with as little movement as there can be."""

import hashlib
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from node.session.placement import holders

settings.register_profile("fl-node", deadline=None)
settings.load_profile("fl-node")

SESSION = 0x1122334455667788
MEMBERS = st.sets(st.integers(0, 65_534), min_size=1, max_size=12)
ROUNDS = st.integers(1, 2**31 - 2)
COPIES = st.integers(1, 5)


def test_the_weight_is_what_the_protocol_says():
    prefix = b"fl-node/replica/1" + bytes.fromhex("1122334455667788") + b"\x00\x02" + b"\x00\x00\x00\x05"
    best = max((0, 1, 3), key=lambda member: hashlib.sha256(prefix + member.to_bytes(2, "big")).digest())
    assert holders(SESSION, 2, 5, range(4), 2) == (2, best)


@given(st.integers(0, 65_534), ROUNDS, MEMBERS, COPIES)
def test_the_owner_is_first_and_nobody_twice(owner, round, members, replicas):
    chosen = holders(SESSION, owner, round, members, replicas)
    assert len(chosen) == len(set(chosen)) == min(replicas, len(members))
    assert set(chosen) <= members
    if owner in members:
        assert chosen[0] == owner


@given(st.integers(0, 65_534), ROUNDS, st.lists(st.integers(0, 65_534), min_size=1, max_size=12, unique=True), COPIES)
def test_the_order_in_which_members_are_known_changes_nothing(owner, round, members, replicas):
    assert holders(SESSION, owner, round, members, replicas) == holders(SESSION, owner, round, members[::-1], replicas)


@given(st.data(), ROUNDS, st.sets(st.integers(0, 65_534), min_size=2, max_size=12), COPIES)
def test_when_a_member_goes_only_what_it_kept_moves(data, round, members, replicas):
    owner, gone = data.draw(st.sampled_from(sorted(members))), data.draw(st.sampled_from(sorted(members)))
    before = holders(SESSION, owner, round, members, replicas)
    after = holders(SESSION, owner, round, members - {gone}, replicas)
    stayed = [member for member in before if member != gone]
    assert list(after[: len(stayed)]) == stayed  # the next in line comes last, nobody else moves
    if gone not in before:
        assert after == before


@given(st.data(), ROUNDS, MEMBERS, COPIES)
def test_when_a_member_comes_only_what_it_is_first_for_moves(data, round, members, replicas):
    owner = data.draw(st.sampled_from(sorted(members)))
    newcomer = data.draw(st.integers(0, 65_534).filter(lambda member: member not in members))
    before = holders(SESSION, owner, round, members, replicas)
    after = holders(SESSION, owner, round, members | {newcomer}, replicas)
    assert set(after) <= set(before) | {newcomer}
    assert len(set(before) - set(after)) <= 1


def test_snapshots_are_spread_evenly():
    members, rounds, replicas = range(10), 400, 3
    kept = Counter(
        holder
        for owner in members
        for round in range(1, rounds + 1)
        for holder in holders(SESSION, owner, round, members, replicas)[1:]
    )
    fair = len(members) * rounds * (replicas - 1) / len(members)
    deviation = (fair * (1 - (replicas - 1) / (len(members) - 1))) ** 0.5  # of a binomial count
    assert all(abs(kept[member] - fair) < 5 * deviation for member in members)
