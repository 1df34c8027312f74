import hashlib

import pytest
from eth_account import Account

from ledger import CallRefused, Ledger, NoContract, NotOurContract, Record, RecordRefused, SessionUnknown, connect
from ledger.transact import transact
from tests.ledger.conftest import digest, make_party, membership
from tests.ledger.faulty_rpc import FaultyRpc

pytestmark = pytest.mark.real


@pytest.fixture
def mallory(devnet):
    account = Account.create()
    devnet.fund(account.address)
    return account


@pytest.mark.parametrize("address", ["", "hello", "0x1234", "0x" + "zz" * 20])
def test_an_address_that_is_none_is_refused(address, devnet):
    with pytest.raises(NoContract, match="is no address"):
        Ledger(devnet.connect(), address)


def test_an_address_without_code_is_refused(devnet):
    with pytest.raises(NoContract, match=r"there is no contract at 0x1111.* on chain 31337: check the address"):
        Ledger(devnet.connect(), "0x" + "11" * 20)


def test_another_contract_is_refused(devnet):
    chain = devnet.connect()
    returns_its_code = bytes.fromhex("600a600c600039600a6000f3") + bytes(10)
    made = transact(chain, devnet.accounts[1], None, returns_its_code)
    address = chain.mapping("eth_getTransactionReceipt", made.tx_hash)["contractAddress"]
    with pytest.raises(NotOurContract, match=r"the 10 bytes of code at 0x.* are not FederatedLedger"):
        Ledger(chain, address)


def test_an_answer_that_is_not_the_contracts_is_refused(devnet, deployed):
    with FaultyRpc(devnet.url) as rpc:
        ledger = Ledger(connect(rpc.url), deployed.address)
        rpc.forged = {"eth_call": b'{"jsonrpc":"2.0","id":1,"result":"0x1234"}'}
        with pytest.raises(NotOurContract, match="answers session with '1234'"):
            ledger.session(1)


def test_a_session_says_who_made_it_and_of_what(party):
    found = party.ledger.session(party.session_id)
    assert found.creator == party.accounts[0].address
    assert found.config_hash == hashlib.sha256(b"a session").digest()
    assert (found.state, found.admission, found.member_count, found.held_count) == ("open", False, 3, 0)


def test_an_unknown_session_is_a_clear_error(deployed):
    with pytest.raises(SessionUnknown, match="has no session 0000000000000007: check the session file"):
        deployed.session(7)


def test_members_come_by_index_with_their_keys_and_addresses(party):
    members = party.ledger.members(party.session_id)
    assert [one.account for one in members] == [one.address for one in party.accounts]
    assert [one.index for one in members] == [0, 1, 2]
    assert all(one.bound and one.active for one in members)
    assert members[0].addresses == ("/ip4/127.0.0.1/tcp/4001",)


def test_a_binding_of_another_account_is_not_bound(devnet, party, mallory):
    stolen = membership(party.ledger, party.session_id, party.accounts[0])
    assert party.ledger.join(mallory, party.session_id, stolen) == 3
    assert [one.bound for one in party.ledger.members(party.session_id)] == [True, True, True, False]


def test_a_member_leaves_returns_and_moves(party):
    bob = party.accounts[1]
    party.ledger.leave(bob, party.session_id)
    assert party.ledger.standing(party.session_id, bob.address) == "left"
    assert party.ledger.head(party.session_id, bob.address).held
    with pytest.raises(RecordRefused, match="account is not a member"):
        party.record(1, 1)
    party.ledger.rejoin(bob, party.session_id, ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/2"])
    party.record(1, 1)
    party.ledger.set_addresses(bob, party.session_id, ["/dns4/bob/tcp/1"])
    assert party.ledger.members(party.session_id)[1].addresses == ("/dns4/bob/tcp/1",)


def test_a_removed_member_returns_only_when_it_is_admitted_again(party):
    alice, bob = party.accounts[:2]
    party.ledger.remove(alice, party.session_id, bob.address)
    with pytest.raises(CallRefused, match="account has not left"):
        party.ledger.rejoin(bob, party.session_id, [])
    party.ledger.admit(alice, party.session_id, [bob.address])
    party.ledger.rejoin(bob, party.session_id, [])
    assert party.record(1, 1).gas_used


def test_only_admitted_accounts_join_a_closed_session(devnet, deployed, mallory):
    alice = devnet.accounts[0]
    session_id = deployed.create_session(alice, digest("by invitation"), admission=True)
    with pytest.raises(CallRefused, match=r"account is not admitted \(session id \d+, account 0x") as caught:
        deployed.join(mallory, session_id, membership(deployed, session_id, mallory))
    assert caught.value.reason == "AccountIsNotAdmitted"
    deployed.admit(alice, session_id, [mallory.address])
    assert deployed.join(mallory, session_id, membership(deployed, session_id, mallory)) == 0


def test_only_the_creator_pauses_and_closes(party):
    for act in (party.ledger.pause, party.ledger.close, party.ledger.resume):
        with pytest.raises(CallRefused, match="only the creator may do that"):
            act(party.accounts[1], party.session_id)


def test_nobody_records_in_a_paused_session_and_everybody_does_after(party):
    party.play(1, 2)
    party.ledger.pause(party.accounts[0], party.session_id)
    for member in range(3):
        with pytest.raises(RecordRefused, match="session is not open") as caught:
            party.record(member, 3)
        assert caught.value.reason == "SessionIsNotOpen"
    assert party.ledger.session(party.session_id).state == "paused"
    party.ledger.resume(party.accounts[0], party.session_id)
    party.play(3, 3)


def test_a_closed_session_stays_closed(party):
    party.ledger.close(party.accounts[0], party.session_id)
    with pytest.raises(RecordRefused, match="session is not open"):
        party.record(0, 1)
    with pytest.raises(CallRefused, match="session is not paused"):
        party.ledger.resume(party.accounts[0], party.session_id)


def test_a_round_is_recorded_once(party):
    party.record(0, 5)
    with pytest.raises(RecordRefused, match=r"round is recorded already \(round 5, next round 6\)") as caught:
        party.record(0, 5)
    assert caught.value.reason == "RoundIsRecordedAlready"
    assert party.ledger.head(party.session_id, party.accounts[0].address).next_round == 6


def test_a_stranger_records_nothing(devnet, party, mallory):
    with pytest.raises(RecordRefused, match="account is not a member"):
        party.ledger.submit(mallory, Record(party.session_id, 1, digest("x")))
    assert party.ledger.head(party.session_id, mallory.address).slot == 0


def test_a_session_of_many_members_is_held_and_released_completely(devnet, deployed, monkeypatch):
    monkeypatch.setattr("ledger.client._PAGE", 2)
    party = make_party(devnet, deployed, members=5, name="many")
    party.ledger.pause(party.accounts[0], party.session_id)
    assert party.ledger.session(party.session_id).held_count == 5
    party.ledger.resume(party.accounts[0], party.session_id)
    assert party.ledger.session(party.session_id).state == "open"
    party.play(1, 1)
