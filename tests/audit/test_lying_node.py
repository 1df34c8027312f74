"""A node that an auditor asks may lie: what it withholds, alters or invents is found by the command line."""

import json

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from tests.ledger.faulty_rpc import FaultyRpc

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr("ledger.replay._PAUSES", (0.0, 0.0))
    monkeypatch.setattr("ledger.replay._NEWEST", 1 << 32)  # what the node lies about is found by its place among all


@pytest.fixture
def audit_through(finished_run):
    """Exit status and report of an audit whose node makes `twist(logs)` of the session's logs."""

    def invoke(twist, *arguments):
        with FaultyRpc(finished_run.chain.url) as rpc:
            rpc.twists["eth_getLogs"] = lambda logs: twist(list(logs))
            fixed = ["audit", "--json", "--session", str(finished_run.session_file), "--rpc", rpc.url]
            result = CliRunner().invoke(cli, [*fixed, *arguments])
        return result.exit_code, json.loads(result.stdout)

    return invoke


def entry_of(log):
    """Account, round and the rest of a record's log; None for another event."""
    data = bytes.fromhex(log["data"][2:])
    return data[64:] if len(log["topics"]) == 2 and len(data) > 100 else None


def records(logs):
    """(position, round) of every record, in the chain's order."""
    entries = [(i, entry_of(log)) for i, log in enumerate(logs)]
    return [(i, int.from_bytes(entry[20:24], "big")) for i, entry in entries if entry is not None]


def member_of(run, log):
    account = "0x" + entry_of(log)[:20].hex()
    entries = {member.account.lower(): member.index for member in run.opened.ledger.members(run.opened.session_id)}
    return entries[account]


def test_a_record_that_the_node_withholds_is_missed_and_located(finished_run, audit_through):
    seen = []

    def withhold(logs):
        at, _ = next((i, round) for i, round in records(logs) if round == 3)
        seen.append(member_of(finished_run, logs[at]))
        return logs[:at] + logs[at + 1 :]

    code, report = audit_through(withhold)
    assert code == 1
    fault = report["first_fault"]
    assert (fault["member"], fault["round"], fault["kind"]) == (seen[0], 3, "hash chain")
    assert "missing" in fault["found"]


@pytest.mark.parametrize("at", [30, 100], ids=["hash", "row"])
def test_a_record_that_the_node_alters_is_found_and_located(finished_run, audit_through, at):
    seen = []

    def alter(logs):
        index, _ = next((i, round) for i, round in records(logs) if round == 2)
        seen.append(member_of(finished_run, logs[index]))
        data = bytearray.fromhex(logs[index]["data"][2:])
        data[64 + at] ^= 1
        logs[index] = {**logs[index], "data": "0x" + data.hex()}
        return logs

    code, report = audit_through(alter)
    fault = report["first_fault"]
    assert code == 1
    assert (fault["member"], fault["round"], fault["kind"]) == (seen[0], 2, "hash chain")


def test_a_record_of_a_non_member_is_found_and_located(audit_through):
    def invent(logs):
        index, _ = next((i, round) for i, round in records(logs) if round == 2)
        data = bytearray.fromhex(logs[index]["data"][2:])
        data[64 : 64 + 20] = b"\xee" * 20
        logs.append({**logs[-1], "data": "0x" + data.hex(), "logIndex": "0xff", "topics": logs[index]["topics"]})
        return logs

    code, report = audit_through(invent)
    fault = report["first_fault"]
    assert code == 1
    assert (fault["member"], fault["round"], fault["kind"]) == (-1, 2, "non-member")
    assert "0x" + "ee" * 20 in fault["found"].lower()


def test_members_that_the_node_withholds_make_the_audit_impossible(audit_through):
    def withhold(logs):
        joined = next(i for i, log in enumerate(logs) if len(log["topics"]) == 3 and len(log["data"]) > 500)
        return logs[:joined] + logs[joined + 1 :]

    code, report = audit_through(withhold)
    assert code == 2
    assert "ask another node" in report["error"]
