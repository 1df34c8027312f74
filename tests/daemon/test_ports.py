import pytest
from eth_account import Account

from ledger import Ledger, Outbox, deploy
from node.daemon.ports import LedgerRecords
from node.daemon.recording import Recorder
from node.messages import Input, Mix

pytestmark = pytest.mark.real
MIX = Mix(1, 1, (Input(0, 65535, 0),), b"\x01" * 32, None)


@pytest.fixture
def outbox(chain, tmp_path):
    connected = chain.connect()
    account = Account.create()
    box = Outbox(tmp_path / "outbox.sqlite", Ledger(connected, deploy(connected, account)), account)
    yield box
    box.close()


async def test_what_an_earlier_disk_recorded_is_not_recorded_again(outbox):
    records = LedgerRecords(Recorder(outbox), 7, lambda: (4, b"\x02" * 32))
    await records.commit(4, b"\x02" * 32, None)
    assert outbox.status().pending == 0
    await records.commit(5, b"\x03" * 32, MIX)
    assert outbox.status().pending == 1


async def test_a_mix_that_a_closing_record_has_is_not_recorded_again(outbox):
    records = LedgerRecords(Recorder(outbox), 7)
    await records.commit(1, b"\x02" * 32, None)
    await records.close(2, MIX)  # then the process is killed before its journal knows
    await records.commit(2, b"\x03" * 32, MIX)
    await records.commit(2, b"\x03" * 32, None)  # the same record: harmless
    assert outbox.status().pending == 3
