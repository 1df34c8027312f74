"""Signed transactions as testimony: every type that a chain takes, and nothing else."""

import contextlib

import pytest
from eth_account import Account

from ledger.abi import encode_call
from ledger.errors import PayloadError
from ledger.testimony import words_of

CONTRACT = "0x" + "77" * 20  # without letters, so without a checksum
SIGNER = Account.from_key(b"\x07" * 32)
STEP = 9 << 32 | 3  # session 9, round 3
DATA = encode_call("record", STEP, b"\x01" * 32, b"")
COMMON = {"nonce": 1, "gas": 100_000, "to": CONTRACT, "value": 0, "data": "0x" + DATA.hex()}
FORMS = {
    "legacy": {"gasPrice": 5, "chainId": 31337},
    "EIP-2930": {"gasPrice": 5, "chainId": 31337, "type": 1, "accessList": []},
    "EIP-1559": {"maxFeePerGas": 5, "maxPriorityFeePerGas": 1, "chainId": 31337, "type": 2},
}


def signed(form):
    return bytes(SIGNER.sign_transaction({**COMMON, **form}).raw_transaction)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_record_is_read_from_any_type_of_transaction(form):
    words = words_of(signed(form))
    assert (words.account, words.chain_id, words.contract.lower()) == (SIGNER.address, 31337, CONTRACT)
    assert words.hashes == {(9, 3): b"\x01" * 32}


def test_a_transaction_from_before_chains_had_numbers_names_none():
    words = words_of(signed({"gasPrice": 5}))
    assert (words.account, words.chain_id) == (SIGNER.address, None)
    assert words.hashes == {(9, 3): b"\x01" * 32}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_transaction_that_was_changed_is_not_its_signers(form):
    content = signed(form)
    at = content.index(b"\x01" * 32)
    changed = content[:at] + b"\x02" + content[at + 1 :]
    with contextlib.suppress(PayloadError):  # some signatures fit no key
        assert words_of(changed).account != SIGNER.address


@pytest.mark.parametrize(
    "content", [b"", b"\x02\xff", b"\xc0", b"\x7f" * 40, b"\xf8", signed(FORMS["legacy"])[:-1]], ids=range(6)
)
def test_what_is_no_transaction_is_a_clear_error(content):
    with pytest.raises(PayloadError, match="is no signed record"):
        words_of(content)


def test_a_transaction_that_calls_something_else_is_no_record():
    with pytest.raises(PayloadError, match="calls something else"):
        words_of(bytes(SIGNER.sign_transaction({**COMMON, **FORMS["legacy"], "data": "0x12345678"}).raw_transaction))
