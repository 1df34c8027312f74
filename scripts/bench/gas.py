"""Gas of every kind of transaction, on a real Anvil, beside the theoretical floor and a naive design.

    python scripts/bench/gas.py          the tables of docs/ledger.md
    python scripts/bench/gas.py --json   {"6": {"gas": …, "floor": …, "naive": …}, "16": …, "64": …}

Steady state: the member's slot is initialised. The record has a snapshot, a row of as many peers, and random hashes
and weights, which have hardly any cheap zero bytes. The floor is what the record's own payload (session, round, update
hash, mix) costs at least: max(21,000 + 4 per calldata token + log, 21,000 + 10 per token), with 1 token for a zero byte
and 4 for another one (EIP-7623), and 375 + 375 per topic + 8 per byte for the log. The inputs are always the same.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from eth_abi.abi import encode
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from ledger import Chain, Devnet, DevnetOptions, Input, Ledger, Membership, Mix, Record, deploy, session_id_of
from ledger.abi import encode_call
from ledger.chain import checksummed
from ledger.client import record_arguments
from ledger.compile import compile_sources, standard_input
from ledger.payload import encode_mix
from ledger.transact import transact

PROJECT = Path(__file__).parents[2]
NAIVE = "scripts/bench/NaiveLedger.sol"
PEERS = (6, 16, 64)
SLOT_UPDATE = 2_900  # of an initialised slot that is warm (EIP-2929); the 2,100 to reach it must fit too
BUDGET = 1.15


@dataclass(frozen=True, slots=True)
class Costs:
    """Gas of a record with a row of some peers."""

    gas: int
    floor: int
    naive: int

    @property
    def budget(self) -> int:
        """The most that a record may cost: 1.15 times the floor, and one update of an initialised slot."""
        return int(BUDGET * self.floor) + SLOT_UPDATE


class Bench:
    """A chain with our ledger, the naive one, and one member."""

    def __init__(self, devnet: Devnet) -> None:
        self.chain: Chain = devnet.connect()
        self.account: LocalAccount = devnet.accounts[0]
        self.fixed: dict[str, int] = {}
        before = self.chain.block_number()
        self.ledger = Ledger(self.chain, deploy(self.chain, self.account))
        header = self.chain.block(before + 1) or {}
        self.fixed["deploying the contract"] = int(header["gasUsed"], 16)
        self.naive = self._deploy_naive()
        self.fixed["createSession"] = self.send("createSession", digest("file"), False, "")
        self.session_id = session_id_of(self.account.address, digest("file"))
        member = Membership(digest("key"), digest("binding") * 2, ("/ip4/192.0.2.1/tcp/4001",))
        arguments = (self.session_id, member.peer_key, member.binding, " ".join(member.addresses))
        self.fixed["join"] = self.send("join", *arguments)
        self.round = 0
        self.fixed["record, a member's first"] = self.record(None)

    def _deploy_naive(self) -> str:
        compiled = compile_sources(PROJECT, standard_input(PROJECT, (NAIVE,)))[NAIVE]["NaiveLedger"]
        receipt = transact(self.chain, self.account, None, bytes.fromhex(compiled["evm"]["bytecode"]["object"]))
        found = self.chain.mapping("eth_getTransactionReceipt", receipt.tx_hash)
        return checksummed((found or {})["contractAddress"])

    def send(self, name: str, *arguments: object) -> int:
        """Gas of a call."""
        return transact(self.chain, self.account, self.ledger.address, encode_call(name, *arguments)).gas_used

    def record(self, mix: Mix | None, closing: bool = False) -> int:
        """Gas of the next round's record."""
        self.round += 1
        update = None if closing else digest("update", self.round)
        return self.send("record", *record_arguments(Record(self.session_id, self.round, update, mix)))

    def record_naively(self, mix: Mix) -> int:
        """Gas of the same record in the naive design."""
        types = ["uint64", "(address,uint32,bytes32,bytes32,bytes32,uint16[],uint16[])"]
        row = [i.member for i in mix.inputs], [i.weight for i in mix.inputs]
        entry = (self.account.address, self.round, digest("update", self.round), mix.mixed_hash, mix.snapshot, *row)
        data = keccak(text=f"record({','.join(types)})")[:4] + encode(types, [self.session_id, entry])
        return transact(self.chain, self.account, self.naive, data).gas_used

    def batch(self, count: int, peers: int) -> int:
        """Gas of one record among `count` in one transaction."""
        slot = self.ledger.head(self.session_id, self.account.address).slot
        entries = []
        for _ in range(count):
            self.round += 1
            entries.append((self.round, digest("update", self.round), encode_mix(mix_of(peers))))
        return self.send("recordAfter", self.session_id, slot, entries) // count


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def mix_of(peers: int, snapshot: bool = True) -> Mix:
    """A mix with weights that are random as far as they can be."""
    random = [int.from_bytes(digest("weight", peer)[:2], "big") + 1 for peer in range(peers)]
    weights = [one * 65535 // sum(random) for one in random]
    weights[0] += 65535 - sum(weights)
    inputs = tuple(Input(peer, weight) for peer, weight in enumerate(weights))
    return Mix(peers, inputs, digest("mixed"), digest("snapshot") if snapshot else None)


def floor_of(session_id: int, round: int, mix: Mix) -> int:
    """What a transaction that logs this record costs at least."""
    payload = session_id.to_bytes(8, "big") + round.to_bytes(4, "big") + digest("update", round) + encode_mix(mix)
    tokens = sum(4 if byte else 1 for byte in payload)
    return max(21_000 + 4 * tokens + 375 + 375 + 8 * len(payload), 21_000 + 10 * tokens)


def measure(bench: Bench) -> dict[int, Costs]:
    costs = {}
    bench.record_naively(mix_of(1))  # it, too, is measured in steady state
    for peers in PEERS:
        mix = mix_of(peers)
        gas = bench.record(mix)
        costs[peers] = Costs(gas, floor_of(bench.session_id, bench.round, mix), bench.record_naively(mix))
    return costs


def others(bench: Bench) -> dict[str, int]:
    found = dict(bench.fixed)
    for peers in PEERS:
        found[f"record, {peers} peers, no snapshot"] = bench.record(mix_of(peers, snapshot=False))
    found["record that closes, 6 peers"] = bench.record(mix_of(6), closing=True)
    found["one record of 32 in a transaction, 6 peers"] = bench.batch(32, 6)
    return found


def tables(costs: dict[int, Costs], rest: dict[str, int]) -> str:
    lines = ["| peers in the row | gas | floor | budget | naive | naive / ours |", "|---|---|---|---|---|---|"]
    for peers, one in costs.items():
        cells = (one.gas, one.floor, one.budget, one.naive)
        lines.append(f"| {peers} | {' | '.join(f'{cell:,}' for cell in cells)} | {one.naive / one.gas:.1f} |")
    lines += ["", "| transaction | gas |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {gas:,} |" for name, gas in rest.items()])


def as_json(costs: dict[int, Costs]) -> str:
    return json.dumps({peers: {"gas": c.gas, "floor": c.floor, "naive": c.naive} for peers, c in costs.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with Devnet(DevnetOptions(block_time=0)) as devnet:
        bench = Bench(devnet)
        costs = measure(bench)
        print(as_json(costs) if arguments.json else tables(costs, others(bench)))


if __name__ == "__main__":
    main()
