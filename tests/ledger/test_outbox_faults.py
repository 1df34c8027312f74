"""Everything that can happen to a transaction, on a real Anvil that mines when it is told to."""

import dataclasses
import sqlite3

import pytest
from eth_account import Account
from eth_utils import keccak

from ledger import Devnet, DevnetOptions, Ledger, Record, deploy
from ledger.delivery import Terms
from ledger.outbox import Outbox
from ledger.payload import HOLD, entry_of
from tests.ledger.conftest import digest, make_party
from tests.ledger.recorded import pump_until_done, recorded, rounds

pytestmark = pytest.mark.real


@pytest.fixture
def held(devnet, party):
    """The module's chain, which mines only on request until the test is over."""
    rpc = party.ledger.chain.rpc
    rpc.call("evm_setAutomine", False)
    yield devnet
    rpc.call("anvil_dropAllTransactions")
    rpc.call("evm_setAutomine", True)


@pytest.fixture
def alice(party):
    return party.accounts[0]


@pytest.fixture
def open_outbox(party, alice, tmp_path):
    opened = []

    def opener(**terms):
        opened.append(Outbox(tmp_path / "outbox.sqlite", party.ledger, alice, Terms(**terms)))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


def plain(party, round):
    return Record(party.session_id, round, digest("update", 0, round), party.mix(0, round - 1) if round else None)


def closing(party, round):
    return Record(party.session_id, round, None, party.mix(0, round - 1))


def waiting(party, account):
    """Transactions of the account in the node's pool, by nonce."""
    content = party.ledger.chain.rpc.call("txpool_content")
    pools = [content[kind] for kind in ("pending", "queued")]
    found = [txs for pool in pools for who, txs in pool.items() if who.lower() == account.address.lower()]
    return {int(nonce): tx for txs in found for nonce, tx in txs.items()}


def other_transaction(party, account, nonce, price=10**11):
    """One that has nothing to do with us, by the same key."""
    fields = {"to": account.address, "value": 1, "gas": 21_000, "nonce": nonce, "chainId": 31337}
    signed = account.sign_transaction(fields | {"maxFeePerGas": price, "maxPriorityFeePerGas": price})
    return party.ledger.chain.rpc.call("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex())


def test_a_pending_record_is_sent_and_not_confirmed(held, party, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    for _ in range(5):
        status = outbox.pump()
    assert (status.pending, status.sent, status.confirmed, status.last_error) == (1, 1, 0, None)
    held.mine()
    assert outbox.pump().confirmed == 1


def test_only_one_transaction_is_on_its_way_at_a_time(held, party, alice, open_outbox):
    outbox = open_outbox()
    for round in range(6):
        outbox.add(plain(party, round))
        outbox.pump()
        assert len(waiting(party, alice)) == 1
    held.mine()
    outbox.pump()
    held.mine()
    assert outbox.pump().confirmed == 6
    assert rounds(party.ledger, party.session_id, alice) == list(range(6))


def test_a_batch_has_a_limit(held, party, alice, open_outbox):
    outbox = open_outbox(batch=4)
    for round in range(10):
        outbox.add(plain(party, round))
    for confirmed in (4, 8, 10):
        outbox.pump()
        held.mine()
        assert outbox.pump().confirmed == confirmed


def test_a_dropped_transaction_is_sent_again(held, party, alice, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    outbox.pump()
    (dropped,) = waiting(party, alice).values()
    party.ledger.chain.rpc.call("anvil_dropTransaction", dropped["hash"])
    assert not waiting(party, alice)
    outbox.pump()
    (again,) = waiting(party, alice).values()
    assert again["hash"] == dropped["hash"]
    held.mine()
    assert outbox.pump().confirmed == 1


def test_a_transaction_replaced_by_another_program_costs_a_nonce_and_no_record(held, party, alice, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    outbox.add(closing(party, 2))
    outbox.pump()
    (nonce,) = waiting(party, alice)
    other_transaction(party, alice, nonce)
    outbox.pump()
    held.mine()
    outbox.pump()
    outbox.pump()
    held.mine()
    assert outbox.pump().confirmed == 2
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def test_a_nonce_gap_is_filled(held, party, alice, open_outbox):
    outbox = open_outbox()
    nonce = party.ledger.chain.nonce(alice.address)
    other = other_transaction(party, alice, nonce)
    outbox.add(plain(party, 1))
    outbox.add(closing(party, 2))
    outbox.pump()
    assert set(waiting(party, alice)) == {nonce, nonce + 1}
    party.ledger.chain.rpc.call("anvil_dropTransaction", other)
    for _ in range(3):
        outbox.pump()
        held.mine()
    pump_until_done(outbox)
    held.mine()  # the transaction beyond the gap comes late, and the contract refuses it
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]
    outbox.add(plain(party, 5))
    outbox.pump()
    held.mine()
    assert outbox.pump().confirmed == 3


def test_a_reorganisation_takes_records_back_and_they_are_sent_again(held, party, alice, open_outbox):
    outbox = open_outbox()
    for round in range(4):
        outbox.add(plain(party, round))
        outbox.pump()
        held.mine()
        outbox.pump()
    assert outbox.status().confirmed == 4
    party.ledger.chain.rpc.call("anvil_reorg", 3, [])
    assert rounds(party.ledger, party.session_id, alice) == [0]
    status = outbox.pump()
    assert (status.confirmed, status.pending) == (1, 3)
    while outbox.pump().pending:
        held.mine()
    entries = [entry_of(alice.address, plain(party, round)) for round in range(4)]
    assert recorded(party.ledger, party.session_id, alice) == entries


def test_transactions_that_a_node_puts_back_into_its_pool_are_waited_for(held, party, alice, open_outbox):
    outbox = open_outbox()
    for round in range(3):
        outbox.add(plain(party, round))
        outbox.pump()
        held.mine()
        outbox.pump()
    with sqlite3.connect(outbox._store.path) as db:
        sent = [raw for (raw,) in db.execute("select raw from attempts order by nonce")]
    db.close()
    party.ledger.chain.rpc.call("anvil_reorg", 3, [])
    for raw in sent:  # as geth does after a reorganisation
        party.ledger.chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
    before = set(waiting(party, alice))
    for _ in range(3):
        status = outbox.pump()
        assert (status.pending, status.last_error) == (3, None)
    assert set(waiting(party, alice)) == before
    held.mine()
    assert outbox.pump().confirmed == 3
    assert rounds(party.ledger, party.session_id, alice) == [0, 1, 2]


def test_a_closing_record_survives_a_reorganisation_once(held, party, alice, open_outbox):
    outbox = open_outbox()
    for record in (plain(party, 1), closing(party, 2)):
        outbox.add(record)
        outbox.pump()
        held.mine()
        outbox.pump()
    for _ in range(3):
        party.ledger.chain.rpc.call("anvil_reorg", 2, [])
        while outbox.pump().pending:
            held.mine()
        assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def test_a_record_counts_as_confirmed_only_when_it_is_deep_enough(held, party, open_outbox):
    outbox = open_outbox(confirmations=3)
    outbox.add(plain(party, 1))
    outbox.pump()
    for confirmed in (0, 0, 1):
        held.mine()
        status = outbox.pump()
        assert (status.confirmed, status.sent) == (confirmed, 1 - confirmed)
    assert status.gas > 21_000


def test_later_records_follow_before_earlier_ones_are_deep(held, party, alice, open_outbox):
    outbox = open_outbox(confirmations=5)
    for round in range(3):
        outbox.add(plain(party, round))
        outbox.pump()
        held.mine()
        outbox.pump()
    assert rounds(party.ledger, party.session_id, alice) == [0, 1, 2]
    held.mine(5)
    assert outbox.pump().confirmed == 3


def test_a_base_fee_that_rises_above_the_offer_is_followed(held, party, alice, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    outbox.pump()
    (before,) = waiting(party, alice).values()
    party.ledger.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(50 * int(before["maxFeePerGas"], 16)))
    held.mine()
    assert not rounds(party.ledger, party.session_id, alice)
    for _ in range(4):
        outbox.pump()
        held.mine()
    assert outbox.pump().confirmed == 1
    assert rounds(party.ledger, party.session_id, alice) == [1]


def test_a_transaction_that_blocks_pass_by_gets_a_higher_fee(held, party, alice, open_outbox):
    outbox = open_outbox(patience=3)
    outbox.add(plain(party, 1))
    outbox.pump()
    (before,) = waiting(party, alice).values()
    chain = party.ledger.chain
    passed_by = dataclasses.replace(outbox._store.attempts()[0], height=chain.block_number() - 3)
    outbox._store.add_attempt(passed_by)
    assert outbox.pump().last_error is None
    (after,) = waiting(party, alice).values()
    assert after["nonce"] == before["nonce"]
    for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert int(after[name], 16) >= 1.125 * int(before[name], 16)
    held.mine()
    assert outbox.pump().confirmed == 1


def test_a_chain_that_stands_still_does_not_raise_the_fee(held, party, alice, open_outbox):
    outbox = open_outbox(patience=3)
    outbox.add(plain(party, 1))
    for _ in range(20):
        outbox.pump()
    assert len(outbox._store.attempts()) == 1


def test_records_wait_while_gas_is_dearer_than_the_limit(held, party, open_outbox):
    chain = party.ledger.chain
    outbox = open_outbox(highest_fee=chain.fees().base // 2)
    outbox.add(plain(party, 1))
    status = outbox.pump()
    assert "above the limit" in status.last_error
    assert status.pending == 1
    chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(chain.fees().base // 8))
    held.mine()
    outbox.pump()
    held.mine()
    assert outbox.pump().confirmed == 1


def test_an_empty_account_is_told_how_much_it_lacks_and_goes_on_when_it_has_it(held, party, alice, open_outbox):
    outbox = open_outbox()
    held.fund(alice.address, 0)
    outbox.add(plain(party, 1))
    status = outbox.pump()
    assert f"{alice.address} has 0.000000 ether" in status.last_error
    assert "send it at least" in status.last_error
    held.fund(alice.address, 1)
    assert outbox.pump().sent == 1
    held.mine()
    assert outbox.pump().confirmed == 1


def test_a_paused_session_keeps_records_waiting_until_it_is_resumed(party, alice, open_outbox):
    outbox = open_outbox()
    party.ledger.pause(alice, party.session_id)
    outbox.add(plain(party, 1))
    status = outbox.pump()
    assert "it is paused: wait until it is resumed" in status.last_error
    assert (status.pending, status.gas) == (1, 0)
    party.ledger.resume(alice, party.session_id)
    assert pump_until_done(outbox).confirmed == 1


def test_a_member_that_left_is_told_to_rejoin(party, alice, open_outbox):
    outbox = open_outbox()
    party.ledger.leave(alice, party.session_id)
    outbox.add(plain(party, 1))
    assert "has left: rejoin" in outbox.pump().last_error
    party.ledger.rejoin(alice, party.session_id, [])
    assert pump_until_done(outbox).confirmed == 1


def test_a_stranger_is_told_to_join(devnet, party, tmp_path):
    stranger = Account.create()
    devnet.fund(stranger.address)
    outbox = Outbox(tmp_path / "outbox.sqlite", party.ledger, stranger)
    outbox.add(plain(party, 1))
    assert "is no member of session" in outbox.pump().last_error
    outbox.close()


def test_a_record_by_another_program_with_the_same_key_is_noticed(party, alice, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    pump_until_done(outbox)
    party.ledger.submit(alice, plain(party, 2))
    outbox.add(plain(party, 3))
    assert "not from this outbox" in outbox.pump().last_error
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def test_a_transaction_that_fails_on_the_chain_is_counted_and_its_records_sent_again(held, party, alice, open_outbox):
    outbox = open_outbox()
    outbox.add(plain(party, 1))
    outbox.pump()
    (sent,) = waiting(party, alice).values()
    slot = party.ledger.head(party.session_id, alice.address).slot
    set_slot(party, alice, slot | HOLD)  # as if a pause came first in the same block
    held.mine()
    status = outbox.pump()
    assert f"{sent['hash']} failed on the chain" in status.last_error
    assert status.gas > 21_000
    set_slot(party, alice, slot)
    outbox.pump()
    held.mine()
    assert outbox.pump().confirmed == 1


def set_slot(party, account, slot):
    """Writes where the contract keeps it: keccak256(session || account || place of the mapping)."""
    key = (party.session_id << 160 | int(account.address, 16)).to_bytes(32, "big")
    place = keccak(key + (3).to_bytes(32, "big")).hex()
    party.ledger.chain.rpc.call("anvil_setStorageAt", party.ledger.address, f"0x{place}", f"0x{slot:064x}")


def test_records_arrive_on_hardhat_too(tmp_path):
    with Devnet(DevnetOptions(engine="hardhat", block_time=0)) as hardhat:
        party = make_party(hardhat, Ledger(hardhat.connect(), deploy(hardhat.connect(), hardhat.accounts[0])))
        outbox = Outbox(tmp_path / "outbox.sqlite", party.ledger, party.accounts[0])
        for record in (plain(party, 1), plain(party, 2), closing(party, 3)):
            outbox.add(record)
            outbox.pump()
        assert pump_until_done(outbox).confirmed == 3
        assert rounds(party.ledger, party.session_id) == [1, 2, 3]
        outbox.close()
