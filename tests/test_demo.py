from types import SimpleNamespace

import pytest

from node.demo import check_report, left_out
from node.home import KEEP_ROUNDS


@pytest.mark.parametrize(
    ("rounds", "missing"),
    [([], 0), ([1, 2, 3], 0), ([1, 2, 6], 3), ([4, 5], 3), (range(11, 11 + KEEP_ROUNDS), 0)],
)
def test_rounds_that_were_left_out_are_counted(rounds, missing):
    assert left_out(rounds) == missing


@pytest.mark.parametrize(
    ("last", "out", "records", "faults"),
    [
        (5, 0, 10, []),
        (5, 2, 8, []),
        (5, 2, 7, ["7 of 8 records are on the chain"]),
        (3, 0, 10, ["member 1 ended after round 3 of 5"]),
    ],
)
def test_a_record_is_missing_of_a_round_that_was_finished(last, out, records, faults):
    members = [{"member": 0, "last_round": 5, "left_out": 0}, {"member": 1, "last_round": last, "left_out": out}]
    ledger = {"records": records, "trust_rows": [{"member": 0, "round": 1, "weights": [65535]}]}
    report = {"members": members, "ledger": ledger, "audit": {"clean": True}}
    assert check_report(SimpleNamespace(rounds=5, members=2), report) == faults
