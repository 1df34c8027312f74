import json
import runpy
from pathlib import Path

import pytest

from ledger import Devnet, DevnetOptions

PROJECT = Path(__file__).parents[2]


@pytest.mark.real
def test_a_record_is_within_its_budget_and_costs_what_the_docs_say():
    bench = runpy.run_path(str(PROJECT / "scripts" / "bench" / "gas.py"))
    with Devnet(DevnetOptions(block_time=0)) as devnet:
        measured = bench["Bench"](devnet)
        costs = bench["measure"](measured)
        rest = bench["others"](measured)
    assert bench["tables"](costs, rest) in (PROJECT / "docs" / "ledger.md").read_text()
    told = json.loads(bench["as_json"](costs))
    assert list(told) == ["6", "16", "64"]
    for one in told.values():
        assert list(one) == ["gas", "floor", "naive"]
        assert one["gas"] <= 1.15 * one["floor"] + 2_900
        assert one["naive"] > 6 * one["gas"]
