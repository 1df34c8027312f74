"""Reading many records into a DataFrame, beside web3.py's own event decoding of the same events in the same run.

    python scripts/bench/history.py [--records 100000] [--members 10] [--json]

Writes the records to a real Anvil first, 50 in a transaction, each with a row of all members. `web3` is
`contract.events.Recorded().get_logs` in pages of 2,000 blocks; `records` is `History.records(gas=False)` from nothing,
`trust_rows` the long form of all rows from what was read, `cached` a second reading of a history that is on disk.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from eth_account.signers.local import LocalAccount

from ledger import Devnet, DevnetOptions, History, Input, Ledger, Membership, Mix, deploy
from ledger.abi import artifact, encode_call
from ledger.payload import encode_mix, next_slot
from ledger.transact import wait_for

BATCH = 50  # records in a transaction
GAS = 4_000_000
PAGE = 2_000


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def mix_of(member: int, round: int, peers: int) -> bytes:
    rest = 65535 - 5000 * (peers - 1)
    inputs = tuple(Input(peer, rest if peer == member else 5000) for peer in range(peers))
    return encode_mix(Mix(peers, inputs, digest("mixed", member, round)))


class Writer:
    """A member that sends records as fast as it can; it works out its own slot and nonce."""

    def __init__(self, ledger: Ledger, session_id: int, account: LocalAccount, peers: int) -> None:
        self.ledger, self.session_id, self.account, self.peers = ledger, session_id, account, peers
        self.member = ledger.join(account, session_id, Membership(digest(account.address), digest("binding") * 2))
        self.slot = ledger.head(session_id, account.address).slot
        self.nonce = ledger.chain.nonce(account.address)
        self.chain_id = ledger.chain.chain_id()

    def send(self, rounds: range) -> str:
        """The hash of one transaction with the records of these rounds."""
        entries = [
            (r, digest(self.member, r), mix_of(self.member, r - 1, self.peers) if r > 1 else b"") for r in rounds
        ]
        data = encode_call("recordAfter", self.session_id, self.slot, entries)
        for round, update, mix in entries:
            entry = bytes.fromhex(self.account.address[2:]) + round.to_bytes(4, "big") + update + mix
            self.slot = next_slot(self.slot, entry)
        fields = {"to": self.ledger.address, "data": data, "gas": GAS, "value": 0, "chainId": self.chain_id}
        fees = {"nonce": self.nonce, "maxFeePerGas": 0, "maxPriorityFeePerGas": 0, "type": 2}
        self.nonce += 1
        signed = self.account.sign_transaction(fields | fees)
        return str(self.ledger.chain.rpc.call("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex()))


def fill(devnet: Devnet, records: int, members: int) -> tuple[Ledger, int]:
    """A ledger with a session of so many records, and the session's id."""
    chain, creator = devnet.connect(60.0), devnet.accounts[0]
    ledger = Ledger(chain, deploy(chain, creator))
    session_id = ledger.create_session(creator, digest("bench"))
    writers = [Writer(ledger, session_id, account, members) for account in devnet.accounts[:members]]
    sent = []
    for start in range(1, records // members + 1, BATCH):
        rounds = range(start, min(start + BATCH, records // members + 1))
        sent += [writer.send(rounds) for writer in writers]
    for tx_hash in sent:
        assert wait_for(chain, tx_hash, 120.0)[1], f"{tx_hash} failed"
    return ledger, session_id


def timed(work: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def decode_with_web3(ledger: Ledger, session_id: int) -> int:
    contract = ledger.chain.web3.eth.contract(address=ledger.address, abi=artifact()["abi"])
    first, last = ledger.session(session_id).created_block, ledger.chain.block_number()
    found = 0
    for start in range(first, last + 1, PAGE):
        page = contract.events.Recorded().get_logs(
            from_block=start, to_block=min(start + PAGE - 1, last), argument_filters={"sessionId": session_id}
        )
        found += len(page)
    return found


def measure(ledger: Ledger, session_id: int) -> dict[str, float | int]:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        with History(ledger, session_id, cache=cache) as history:
            records_s, count = timed(lambda: len(history.records(gas=False)))
            rows_s, _ = timed(lambda: len(history.trust_rows()))
            verify_s, _ = timed(history.verify)
        with History(ledger, session_id, cache=cache) as history:
            cached_s, again = timed(lambda: len(history.records(gas=False)))
    web3_s, decoded = timed(lambda: decode_with_web3(ledger, session_id))
    assert count == again == decoded
    seconds = {"web3": web3_s, "records": records_s, "trust_rows": rows_s, "verify": verify_s, "cached": cached_s}
    told: dict[str, float | int] = {f"{name}_s": round(value, 3) for name, value in seconds.items()}
    return {"records": count, **told, "faster_than_web3": round(web3_s / records_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with Devnet(DevnetOptions(free_gas=True, accounts=arguments.members)) as devnet:
        found = measure(*fill(devnet, arguments.records, arguments.members))
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:>18}  {value:,}" for name, value in found.items()))


if __name__ == "__main__":
    main()
