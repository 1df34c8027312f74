"""What a node should keep, lacks, and counts: pure functions of what it sees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.daemon import replica_plan
from node.daemon.replica_plan import Named, Place, Registry
from node.session.placement import holders
from node.storage import Label, Pin, parse_retention

SESSION = 7
ROUNDS = 40
EVERYBODY = frozenset(range(4))
settings.register_profile("fl-node", deadline=None)
settings.load_profile("fl-node")


def named(member, round):
    return Named(member, round, f"cid-{member}-{round}")


def pin(one, session=SESSION):
    return Pin(one.cid, Label(session, one.member, one.round), 100, 1000.0 + one.round)


RECORDED = [named(member, round) for round in range(2, 42, 2) for member in range(4)]


def registry(own, replicas=2, policy=None, recorded=RECORDED):
    made = Registry(Place(SESSION, own, replicas, ROUNDS, policy))
    made.add(recorded)
    return made


@given(st.sets(st.integers(0, 3), min_size=1), st.integers(1, 4))
def test_together_the_members_keep_as_many_copies_as_the_session_wants(present, replicas):
    plans = {own: registry(own, replicas).plan([], frozenset(present)) for own in present}
    for one in RECORDED:
        keepers = {own for own, plan in plans.items() if one in plan.missing}
        assert keepers == set(holders(SESSION, one.member, one.round, present, replicas))
        leaders = [own for own, plan in plans.items() if one in plan.led]
        assert len(leaders) == 1  # one counts the copies of each
        assert set(plans[leaders[0]].led[one]) == keepers - set(leaders)


def test_what_is_kept_is_not_missing_and_own_snapshots_come_first_then_the_newest():
    made = registry(0)
    missing = made.plan([], EVERYBODY).missing
    own = [one for one in missing if one.member == 0]
    assert list(missing[: len(own)]) == own
    assert [one.round for one in own] == sorted((one.round for one in own), reverse=True)
    rest = [one.round for one in missing[len(own) :]]
    assert rest == sorted(rest, reverse=True)
    held = [pin(one) for one in missing[:7]]
    assert made.plan(held, EVERYBODY).missing == missing[7:]


def test_when_a_member_is_lost_the_next_in_line_lack_what_it_kept():
    before = {own: set(registry(own).plan([], EVERYBODY).missing) for own in range(4)}
    after = {own: set(registry(own).plan([], EVERYBODY - {3}).missing) for own in range(3)}
    for own in range(3):
        assert before[own] <= after[own]
        assert all(one in before[3] for one in after[own] - before[own])


def test_a_member_that_comes_back_makes_copies_surplus():
    made = registry(0)
    held = [pin(one) for one in made.plan([], EVERYBODY - {3}).missing]
    assert made.plan(held, EVERYBODY - {3}).surplus == ()
    surplus = made.plan(held, EVERYBODY).surplus
    assert surplus
    assert all(0 not in holders(SESSION, one.label.member, one.label.round, EVERYBODY, 2) for one in surplus)


def test_what_the_operators_policy_releases_is_not_fetched_again():
    made = registry(0, policy=parse_retention("last:2"))
    plan = made.plan([], EVERYBODY)
    assert {one.round for one in plan.missing if one.member == 0} == {38, 40}
    assert set(plan.led) == {one for one in plan.missing if one.member == 0}
    held = [pin(one) for one in plan.missing]
    assert made.plan(held, EVERYBODY).missing == ()


def test_one_replica_means_the_owner_alone():
    assert {one.member for one in registry(2, replicas=1).plan([], EVERYBODY).missing} == {2}


def test_pins_by_hand_and_of_other_sessions_are_nobodys_replicas():
    place = Place(SESSION, 0, 2, ROUNDS)
    other, hand = pin(named(1, 2), session=8), Pin("cid", None, 1, 1.0)
    assert not any(place.is_replica(one) or place.is_own(one) for one in (other, hand))
    assert registry(0).plan([other, hand], EVERYBODY).surplus == ()


def test_the_first_word_about_a_round_counts_and_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(replica_plan, "REMEMBERED", 8)
    made = registry(0, recorded=[named(0, 1), Named(0, 1, "another")])
    assert [one.cid for one in made.named.values()] == ["cid-0-1"]
    made.plan([], EVERYBODY)
    made.add(RECORDED)
    assert list(made.named.values()) == RECORDED[-8:]
    assert len(made._holders) <= 8


def test_what_is_recorded_of_rounds_that_the_session_does_not_have_is_not_looked_after():
    made = registry(0, recorded=[*RECORDED, named(3, ROUNDS + 1), named(3, 2**31 - 2)])
    assert list(made.named.values()) == RECORDED


@pytest.mark.parametrize("replicas", [2, 5])
def test_a_member_alone_keeps_its_own_and_knows_that_there_should_be_more(replicas):
    plan = registry(1, replicas).plan([], frozenset({1}))
    assert {one.member for one in plan.missing} == set(range(4))  # of all others, too: they are lost
    assert all(others == () for others in plan.led.values())
