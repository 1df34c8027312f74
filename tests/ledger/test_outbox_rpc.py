"""An RPC that is down, hangs, lies or leads elsewhere: records wait on disk, and arrive once when it is well again."""

import os
import signal
import time
from dataclasses import replace

import pytest

from ledger import Chain, Devnet, DevnetOptions, Ledger, Record, connect, deploy
from ledger.abi import encode_call
from ledger.delivery import Terms
from ledger.outbox import Outbox
from tests.ledger.conftest import digest, make_party
from tests.ledger.faulty_rpc import FaultyRpc
from tests.ledger.recorded import pump_until_done, recorded, rounds

pytestmark = pytest.mark.real
TIMEOUT = 0.5


@pytest.fixture
def rpc(devnet):
    with FaultyRpc(devnet.url) as rpc:
        yield rpc


@pytest.fixture
def alice(party):
    return party.accounts[0]


@pytest.fixture
def outbox(party, rpc, alice, tmp_path):
    ledger = Ledger(connect(rpc.url, 31337, TIMEOUT), party.ledger.address)
    outbox = Outbox(tmp_path / "outbox.sqlite", ledger, alice)
    yield outbox
    outbox.close()


def plain(party, round):
    return Record(party.session_id, round, digest("update", 0, round), party.mix(0, round - 1) if round else None)


def closing(party, round):
    return Record(party.session_id, round, None, party.mix(0, round - 1))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "did not answer eth_chainId within 0.5 s"),
        ("trickle", "did not answer eth_chainId within 0.5 s"),
        ("garbage", "it is no Ethereum RPC"),
        ("wrong shape", "it is no Ethereum RPC"),
        ("error", "the method does not exist"),
    ],
)
def test_records_wait_while_the_rpc_is_ill_and_arrive_when_it_is_well(fault, words, party, rpc, alice, outbox):
    outbox.add(plain(party, 1))
    pump_until_done(outbox)
    rpc.fault = fault
    outbox.add(plain(party, 2))
    began = time.monotonic()
    status = outbox.pump()
    assert time.monotonic() - began < 3 * TIMEOUT
    assert words in status.last_error
    assert status.pending == 1
    outbox.add(closing(party, 3))
    rpc.fault = None
    assert pump_until_done(outbox).last_error is None
    assert rounds(party.ledger, party.session_id, alice) == [1, 2, 3]


def test_an_answer_that_gets_lost_does_not_make_two_records(party, rpc, alice, outbox):
    for number, record in enumerate([plain(party, 1), plain(party, 2), closing(party, 3)], start=1):
        rpc.fault = "lose answer"
        outbox.add(record)
        assert "can't be reached" in outbox.pump().last_error
        rpc.fault = None
        assert pump_until_done(outbox).confirmed == number
    assert rounds(party.ledger, party.session_id, alice) == [1, 2, 3]
    assert outbox.status().gas > 3 * 21_000


@pytest.mark.parametrize(
    "method", ["eth_getTransactionReceipt", "eth_getTransactionCount", "eth_call", "eth_blockNumber"]
)
@pytest.mark.parametrize(
    "answer", [b'{"jsonrpc":"2.0","id":1,"result":"soon"}', b'{"jsonrpc":"2.0","id":1,"result":[1]}']
)
def test_an_answer_of_the_wrong_kind_is_an_error_and_no_crash(method, answer, party, rpc, alice, outbox):
    outbox.add(plain(party, 1))
    outbox.pump()
    outbox.add(plain(party, 2))
    rpc.forged = {method: answer}
    assert outbox.pump().last_error
    rpc.forged = {}
    pump_until_done(outbox)
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def test_a_node_that_lags_behind_does_not_get_a_record_twice(party, rpc, alice, outbox):
    chain = party.ledger.chain
    for record in (plain(party, 1), closing(party, 2)):
        stale = chain.rpc.call("eth_call", slot_query(party, alice), "latest")
        outbox.add(record)
        pump_until_done(outbox)
        rpc.forged = {"eth_call": f'{{"jsonrpc":"2.0","id":1,"result":"{stale}"}}'.encode()}
        for _ in range(3):
            outbox.pump()
        rpc.forged = {}
        pump_until_done(outbox)
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def slot_query(party, account):
    data = encode_call("slotOf", party.session_id, account.address)
    return {"to": party.ledger.address, "data": "0x" + data.hex()}


def test_a_chain_with_another_id_behind_the_url_gets_nothing(party, rpc, alice, outbox):
    outbox.add(plain(party, 1))
    with Devnet(DevnetOptions(chain_id=4711, block_time=0)) as other:
        rpc.upstream = other.url
        assert "serves chain 4711 instead of 31337" in outbox.pump().last_error
    rpc.upstream = party.ledger.chain.url
    assert pump_until_done(outbox).confirmed == 1


def test_an_empty_chain_with_the_same_id_behind_the_url_gets_nothing(party, rpc, alice, outbox):
    outbox.add(plain(party, 1))
    pump_until_done(outbox)
    outbox.add(plain(party, 2))
    with Devnet(DevnetOptions(block_time=0)) as other:
        rpc.upstream = other.url
        assert f"there is no contract at {party.ledger.address}" in outbox.pump().last_error
        assert other.connect().nonce(alice.address) == 0
    rpc.upstream = party.ledger.chain.url
    assert pump_until_done(outbox).confirmed == 2
    assert rounds(party.ledger, party.session_id, alice) == [1, 2]


def test_the_same_contract_on_a_fresh_chain_without_the_member_gets_nothing(tmp_path):
    with Devnet(DevnetOptions(block_time=0)) as before, Devnet(DevnetOptions(block_time=0)) as after:
        party = make_party(before, Ledger(before.connect(), deploy(before.connect(), before.accounts[0])))
        address = deploy(after.connect(), after.accounts[0])
        assert address == party.ledger.address  # the same deployer, the same nonce: the same address
        with FaultyRpc(before.url) as rpc:
            outbox = Outbox(tmp_path / "o", Ledger(connect(rpc.url), address), party.accounts[0])
            outbox.add(plain(party, 1))
            pump_until_done(outbox)
            rpc.upstream = after.url
            outbox.add(plain(party, 2))
            assert "it was reset, restore its state" in outbox.pump().last_error
            rpc.upstream = before.url
            assert pump_until_done(outbox).confirmed == 2
            outbox.close()


def test_a_node_can_start_while_the_chain_is_down(devnet, party, rpc, alice, tmp_path):
    rpc.upstream = "http://127.0.0.1:1"
    ledger = Ledger(Chain(rpc.url, 31337, TIMEOUT), party.ledger.address, check=False)
    outbox = Outbox(tmp_path / "outbox.sqlite", ledger, alice)
    outbox.add(plain(party, 1))
    assert "can't be reached" in outbox.pump().last_error
    rpc.upstream = devnet.url
    assert pump_until_done(outbox).confirmed == 1
    outbox.close()


@pytest.mark.parametrize("confirmations", [1, 4])
def test_a_chain_that_is_killed_and_restarted_from_older_state_gets_all_records_once(confirmations, tmp_path):
    options = DevnetOptions(block_time=0)
    with Devnet(options) as devnet:
        party = make_party(devnet, Ledger(devnet.connect(), deploy(devnet.connect(), devnet.accounts[0])))
        port = int(devnet.url.rpartition(":")[2])
        outbox = Outbox(tmp_path / "o", party.ledger, party.accounts[0], Terms(confirmations))
        send(devnet, outbox, [plain(party, 1), plain(party, 2)])
        devnet.save(tmp_path / "state")
        send(devnet, outbox, [plain(party, 3), closing(party, 4)])  # this is what the chain forgets
        assert rounds(party.ledger, party.session_id) == [1, 2, 3, 4]
    outbox.add(plain(party, 4))
    assert "can't be reached" in outbox.pump().last_error
    with Devnet(replace(options, port=port, load=tmp_path / "state")) as devnet:
        while outbox.pump().pending:
            devnet.mine()
        assert rounds(party.ledger, party.session_id) == [1, 2, 3, 4, 4]
        assert [entry[24:56] == bytes(32) for entry in recorded(party.ledger, party.session_id)][3:] == [True, False]
    outbox.close()


def send(devnet, outbox, records):
    for record in records:
        outbox.add(record)
        outbox.pump()
        outbox.pump()
        devnet.mine()


def test_a_chain_that_stands_still_for_a_while_gets_all_that_waited_in_order(tmp_path):
    with Devnet(DevnetOptions(block_time=0.2)) as devnet:
        party = make_party(devnet, Ledger(devnet.connect(), deploy(devnet.connect(), devnet.accounts[0])), members=1)
        ledger = Ledger(connect(devnet.url, 31337, 0.2), party.ledger.address)
        outbox = Outbox(tmp_path / "o", ledger, party.accounts[0])
        outbox.add(plain(party, 0))
        pump_until_done(outbox)
        os.kill(devnet.pid, signal.SIGSTOP)
        try:
            for round in range(1, 6):
                outbox.add(plain(party, round))
                assert "did not answer" in outbox.pump().last_error
        finally:
            os.kill(devnet.pid, signal.SIGCONT)
        outbox.add(closing(party, 6))
        assert pump_until_done(outbox).confirmed == 7
        assert rounds(party.ledger, party.session_id) == list(range(7))
        outbox.close()
