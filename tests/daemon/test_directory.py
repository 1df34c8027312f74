"""Whom a node takes for a member: one seat for each libp2p key that proved itself."""

from types import SimpleNamespace

import pytest

from ledger import MemberEntry, load_keystore
from node.daemon.admission import take_seat
from node.daemon.directory import seats_of
from node.errors import HomeError
from node.network.identity import identity_from_seed, load_identity
from tests.nodes import PASSPHRASE, make_home, make_session

ALICE, BOB = (identity_from_seed(bytes([seed]) * 32) for seed in (1, 2))


def joined(index, identity, *, bound=True, active=True):
    standing = "active" if active else "left"
    return MemberEntry(index, f"0x{index:040x}", identity.public_key, b"", (), active, standing, index, bound)


def rights(*members):
    return [seat.active for seat in seats_of(list(members))]


def test_a_member_whose_key_signed_the_binding_has_rights():
    assert rights(joined(0, ALICE), joined(1, BOB)) == [True, True]
    assert rights(joined(0, ALICE), joined(1, BOB, bound=False)) == [True, False]
    assert rights(joined(0, ALICE, active=False), joined(1, BOB)) == [False, True]


def test_a_key_counts_once_also_after_its_first_account_left():
    assert rights(joined(0, ALICE), joined(1, ALICE)) == [True, False]
    assert rights(joined(0, ALICE, active=False), joined(1, ALICE)) == [False, False]


def test_who_names_a_key_that_it_cannot_sign_with_takes_no_rights_from_its_owner():
    assert rights(joined(0, ALICE, bound=False), joined(1, ALICE)) == [False, True]


@pytest.mark.real
def test_a_second_account_does_not_join_with_a_key_that_is_a_members(chain, tmp_path):
    first, second = (make_home(tmp_path / name) for name in ("first", "second"))
    opened = make_session(first, chain, tmp_path / "session.toml")
    identity = load_identity(first.identity)
    take_seat(SimpleNamespace(home=first), opened, identity, load_keystore(first.keystore, PASSPHRASE))
    other = load_keystore(second.keystore, PASSPHRASE)
    with pytest.raises(
        HomeError, match=r"is bound to account 0x\w{40}, member 0: restore that account's keystore\.json"
    ):
        take_seat(SimpleNamespace(home=second), opened, identity, other)
    assert len(opened.ledger.members(opened.session_id)) == 1
    assert take_seat(SimpleNamespace(home=second), opened, load_identity(second.identity), other).own_index == 1
