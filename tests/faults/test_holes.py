"""The ledger's holes, as the faults' check reads them, and the gaps that the audit names: they are the same."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from ledger import Devnet, DevnetOptions
from tests.audit.forge import Forgery
from tests.faults.cluster import holes, left_out
from tests.nodes import REPOSITORY

pytestmark = pytest.mark.real


def test_a_lost_disk_leaves_the_holes_that_the_audit_names(tmp_path):
    def away(draft):
        draft.skipped = draft.member == 1 and 4 <= draft.round <= 6

    async def forget():
        """The mix of round 3 was on the lost disk."""
        session.records[1][3] = replace(session.records[1][3], mix=None)

    with Devnet(DevnetOptions(block_time=0, free_gas=True)) as devnet:
        session = Forgery(devnet.connect(), tmp_path, rounds=8, change=away, after_rounds=forget)
        session.record()
        command = [sys.executable, "-m", "tests.faults.ledger_says", str(tmp_path / "session.toml")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        answer = json.loads(done.stdout)
        recorded, mixed = ({int(key): own for key, own in answer[what].items()} for what in ("rounds", "mixed"))
        for since, last, lost in ((1, 8, range(3, 7)), (1, 5, [3])):
            found = holes(recorded, mixed, since, last)
            assert found == {(1, each) for each in lost}
            assert left_out(session.judge(since, last).json(), recorded, last) == found
