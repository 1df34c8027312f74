"""What really stands in the contract's log, read the slow and simple way."""

import time

from eth_abi import decode

from ledger.abi import topic_of


def recorded(ledger, session_id, account=None):
    """Entries (account, round, update hash, mix) in the chain's order."""
    topics = [topic_of("Recorded"), f"0x{session_id:064x}"]
    query = {"address": ledger.address, "topics": topics, "fromBlock": "0x0", "toBlock": "latest"}
    logs = ledger.chain.rpc.call("eth_getLogs", query)
    entries = [decode(["bytes"], bytes.fromhex(log["data"][2:]))[0] for log in logs]
    mine = bytes.fromhex(account.address[2:]) if account else b""
    return [entry for entry in entries if entry.startswith(mine)]


def rounds(ledger, session_id, account=None):
    return [int.from_bytes(entry[20:24], "big") for entry in recorded(ledger, session_id, account)]


def pump_until_done(outbox, seconds=20.0):
    """The status when all is confirmed; every pump must have gone well, or the last one says why not."""
    deadline = time.monotonic() + seconds
    while (status := outbox.pump()).pending:
        assert time.monotonic() < deadline, status
    return status
