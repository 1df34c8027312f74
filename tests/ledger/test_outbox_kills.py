"""kill -9 at random moments: what was added is recorded, all of it, in order, once."""

import random
import subprocess
import sys

import pytest

from ledger import Devnet, DevnetOptions, Ledger, deploy
from ledger.payload import entry_of
from tests.ledger.conftest import make_party
from tests.ledger.outbox_child import LAST, record
from tests.ledger.recorded import recorded

pytestmark = pytest.mark.real
KILLS = 25
COMMAND = [sys.executable, "-m", "tests.ledger.outbox_child"]


@pytest.mark.parametrize("block_time", [0, 0.1])
def test_no_record_is_lost_or_doubled_by_kills(block_time, tmp_path):
    chance = random.Random(block_time)
    with Devnet(DevnetOptions(block_time=block_time)) as devnet:
        party = make_party(devnet, Ledger(devnet.connect(), deploy(devnet.connect(), devnet.accounts[0])), members=1)
        (alice,) = party.accounts
        arguments = [devnet.url, party.ledger.address, str(party.session_id), alice.key.hex(), tmp_path / "outbox"]
        with subprocess.Popen(COMMAND + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

            def after(seconds):
                print(seconds, file=child.stdin, flush=True)
                return child.stdout.readline().strip()

            ends = [after(chance.uniform(0.01, 0.12)) for _ in range(KILLS)]
            assert ends.count("killed") > 5
            assert after(60) == "exit 0"
        entries = [entry_of(alice.address, record(party.session_id, round)) for round in range(LAST + 2)]
        assert recorded(party.ledger, party.session_id) == entries
