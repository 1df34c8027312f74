import contextlib
import sqlite3
import threading

import pytest

from ledger import Chain, Ledger, OutboxError, Record
from ledger.outbox import Outbox
from ledger.payload import entry_of
from tests.ledger.conftest import digest, membership
from tests.ledger.recorded import pump_until_done, recorded

pytestmark = pytest.mark.real


@pytest.fixture
def alice(party):
    return party.accounts[0]


@pytest.fixture
def outbox(party, alice, tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite", party.ledger, alice)
    yield outbox
    outbox.close()


def plain(party, round):
    return Record(party.session_id, round, digest("update", 0, round), party.mix(0, round - 1) if round else None)


def closing(party, round):
    return Record(party.session_id, round, None, party.mix(0, round - 1))


def test_records_arrive_once_in_order_the_closing_one_included(party, alice, outbox):
    records = [plain(party, round) for round in range(5)] + [closing(party, 5)]
    for record in records:
        assert outbox.add(record)
        pump_until_done(outbox)
    assert recorded(party.ledger, party.session_id, alice) == [entry_of(alice.address, one) for one in records]
    assert outbox.status().confirmed == 6
    assert outbox.status().gas == sum(row_gas(outbox))


def row_gas(outbox):
    with sqlite3.connect(outbox._store.path) as db:
        gas = [gas for (gas,) in db.execute("select gas from attempts")]
    db.close()
    return gas


def test_records_that_waited_go_together_in_one_transaction(party, alice, outbox):
    records = [plain(party, round) for round in range(20)] + [closing(party, 20)]
    for record in records:
        outbox.add(record)
    pump_until_done(outbox)
    assert recorded(party.ledger, party.session_id, alice) == [entry_of(alice.address, one) for one in records]
    assert len(row_gas(outbox)) == 1
    assert outbox.status().gas < 21 * 25_000


def test_rounds_may_be_skipped_but_never_go_back(party, outbox):
    outbox.add(plain(party, 3))
    outbox.add(plain(party, 7))
    with pytest.raises(OutboxError, match="round 5 comes after 7"):
        outbox.add(plain(party, 5))
    outbox.add(closing(party, 8))
    outbox.add(plain(party, 8))  # a closing record uses up no round
    with pytest.raises(OutboxError, match="round 7 comes after 8"):
        outbox.add(closing(party, 7))
    pump_until_done(outbox)


def test_the_same_record_twice_is_one_record(party, outbox):
    assert outbox.add(plain(party, 1))
    assert not outbox.add(plain(party, 1))
    assert outbox.status().pending == 1


def test_another_record_of_the_same_round_is_refused_loudly(party, outbox):
    outbox.add(plain(party, 1))
    with pytest.raises(OutboxError, match=r"round 1 with update .*… where .* was to be added: a record is never"):
        outbox.add(Record(party.session_id, 1, digest("another"), party.mix(0, 0)))
    with pytest.raises(OutboxError, match="another mix beside update"):
        outbox.add(Record(party.session_id, 1, digest("update", 0, 1), party.mix(0, 5)))


def test_records_of_two_sessions_go_out_side_by_side(devnet, party, alice, outbox):
    other = party.ledger.create_session(alice, digest("other"))
    party.ledger.join(alice, other, membership(party.ledger, other, alice))
    for round in range(3):
        outbox.add(plain(party, round))
        outbox.add(Record(other, round, digest("other", round)))
    pump_until_done(outbox)
    assert party.ledger.head(party.session_id, alice.address).next_round == 3
    assert party.ledger.head(other, alice.address).next_round == 3


def test_an_outbox_that_is_opened_again_goes_on_where_it_was(party, alice, tmp_path):
    path = tmp_path / "outbox.sqlite"
    for round in range(6):
        outbox = Outbox(path, party.ledger, alice)
        outbox.add(plain(party, round))
        if round % 2:
            outbox.pump()
        outbox.close()
    outbox = Outbox(path, party.ledger, alice)
    pump_until_done(outbox)
    outbox.close()
    assert len(recorded(party.ledger, party.session_id, alice)) == 6


def test_an_outbox_of_another_contract_is_refused(party, alice, tmp_path):
    Outbox(tmp_path / "outbox.sqlite", party.ledger, alice).close()
    elsewhere = Ledger(Chain(party.ledger.chain.url, 31337), "0x" + "11" * 20, check=False)
    with pytest.raises(OutboxError, match=r"holds records for contract 0x.* use another home directory"):
        Outbox(tmp_path / "outbox.sqlite", elsewhere, alice)


def test_a_file_that_is_no_database_is_refused(party, alice, tmp_path):
    (tmp_path / "outbox.sqlite").write_bytes(b"hello" * 1000)
    with pytest.raises(OutboxError, match="can't be used as an outbox"):
        Outbox(tmp_path / "outbox.sqlite", party.ledger, alice)


def test_a_record_that_is_not_what_was_written_is_never_sent(party, alice, tmp_path):
    path = tmp_path / "outbox.sqlite"
    outbox = Outbox(path, party.ledger, alice)
    outbox.add(plain(party, 0))
    outbox.add(plain(party, 1))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        (entry,) = db.execute("select entry from records where round = 1").fetchone()
        db.execute("update records set entry = ? where round = 1", (entry[:40] + bytes([entry[40] ^ 1]) + entry[41:],))
    assert "the record of round 1 is not what was written: restore it" in outbox.pump().last_error
    outbox.close()
    with pytest.raises(OutboxError, match="the record of round 1 is not what was written"):
        Outbox(path, party.ledger, alice)
    assert len(recorded(party.ledger, party.session_id, alice)) == 0


def test_an_outbox_from_before_records_had_digests_goes_on(party, alice, tmp_path):
    path = tmp_path / "outbox.sqlite"
    outbox = Outbox(path, party.ledger, alice)
    outbox.add(plain(party, 0))
    outbox.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("alter table records drop column digest")
    outbox = Outbox(path, party.ledger, alice)
    outbox.add(plain(party, 1))
    pump_until_done(outbox)
    outbox.close()
    assert len(recorded(party.ledger, party.session_id, alice)) == 2


def test_a_folder_that_is_missing_is_refused(party, alice, tmp_path):
    with pytest.raises(OutboxError, match="can't be used as an outbox"):
        Outbox(tmp_path / "nowhere" / "outbox.sqlite", party.ledger, alice)


def test_a_record_is_on_disk_before_add_returns(party, outbox):
    outbox.add(plain(party, 1))
    with sqlite3.connect(outbox._store.path) as db:  # what another process would see after a kill
        assert db.execute("select count(*) from records").fetchone() == (1,)
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)
    db.close()
    assert outbox._store._db.execute("pragma synchronous").fetchone() == (2,)  # FULL


def test_adding_goes_on_from_one_thread_while_another_pumps(party, alice, outbox):
    done = threading.Event()

    def pump():
        while not done.is_set():
            outbox.pump()

    thread = threading.Thread(target=pump)
    thread.start()
    for round in range(60):
        outbox.add(plain(party, round))
    done.set()
    thread.join()
    pump_until_done(outbox)
    assert len(recorded(party.ledger, party.session_id, alice)) == 60


def test_other_transactions_of_the_same_account_do_not_get_in_the_way(party, alice, outbox):
    done = threading.Event()

    def pump():
        while not done.is_set():
            outbox.pump()

    thread = threading.Thread(target=pump)
    thread.start()
    for round in range(8):
        outbox.add(plain(party, round))
        party.ledger.set_addresses(alice, party.session_id, [f"/ip4/10.0.0.{round}/tcp/1"])
    done.set()
    thread.join()
    pump_until_done(outbox)
    assert len(recorded(party.ledger, party.session_id, alice)) == 8
    assert party.ledger.members(party.session_id)[0].addresses == ("/ip4/10.0.0.7/tcp/1",)
