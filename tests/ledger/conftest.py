"""A real Anvil per test module, and a session on it with members that record."""

import hashlib
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_account import Account

from ledger import Devnet, DevnetOptions, Input, Ledger, Membership, Mix, Record, binding_message, deploy


@pytest.fixture(scope="module")
def devnet():
    with Devnet(DevnetOptions(block_time=0)) as devnet:
        yield devnet


@pytest.fixture(scope="module")
def deployed(devnet):
    return Ledger(devnet.connect(), deploy(devnet.connect(), devnet.accounts[0]))


@dataclass
class Party:
    """A session and its members' accounts; the first is the creator."""

    ledger: Ledger
    session_id: int
    accounts: list

    def record(self, member, round, mix=None, closing=False):
        update = None if closing else digest("update", member, round)
        return self.ledger.submit(self.accounts[member], Record(self.session_id, round, update, mix))

    def play(self, first, last):
        """Every member records rounds `first` to `last`, each with the mix of the round before."""
        for round in range(first, last + 1):
            for member in range(len(self.accounts)):
                self.record(member, round, self.mix(member, round - 1) if round > 1 else None)

    def mix(self, member, round):
        count = len(self.accounts)
        inputs = [Input(peer, 65535 // count, 0) for peer in range(count)]
        inputs[member] = Input(member, 65535 - (count - 1) * (65535 // count), 0)
        snapshot = digest("snapshot", member, round) if round % 2 == 0 else None
        return Mix(count, tuple(inputs), digest("mixed", member, round), snapshot)


def digest(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()


def membership(ledger, session_id, account, address="/ip4/127.0.0.1/tcp/4001"):
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(account.address.encode()).digest())
    message = binding_message(ledger.chain.chain_id(), ledger.address, session_id, account.address)
    return Membership(key.public_key().public_bytes_raw(), key.sign(message), (address,))


def make_party(devnet, ledger, members=3, name="a session"):
    accounts = [Account.create() for _ in range(members)]
    for account in accounts:
        devnet.fund(account.address)
    session_id = ledger.create_session(accounts[0], hashlib.sha256(name.encode()).digest())
    for account in accounts:
        ledger.join(account, session_id, membership(ledger, session_id, account))
    return Party(ledger, session_id, accounts)


@pytest.fixture
def party(devnet, deployed):
    return make_party(devnet, deployed)
