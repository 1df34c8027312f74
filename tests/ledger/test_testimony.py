"""Signed transactions as testimony: every type that a chain takes, and nothing else."""

import contextlib

import pytest
from eth_account import Account

from ledger.abi import encode_call
from ledger.errors import PayloadError
from ledger.signed import encoded
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
ACCESS = ({"address": CONTRACT, "storageKeys": ["0x" + "05" * 32, "0x" + "00" * 32]},)
TOLD = {**FORMS, "unprotected": {"gasPrice": 5}, "with access": FORMS["EIP-1559"] | {"accessList": ACCESS}}


def signed(form):
    return bytes(SIGNER.sign_transaction({**COMMON, **form}).raw_transaction)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_record_is_read_from_any_type_of_transaction(form):
    words = words_of(signed(form))
    assert (words.account, words.chain_id, words.contract.lower()) == (SIGNER.address, 31337, CONTRACT)
    assert words.hashes == {(9, 3): b"\x01" * 32}


def as_told(form, signed):
    """What a node answers to eth_getTransactionByHash, which has `input` for `data`."""
    fields = {
        "accessList": [],
        **COMMON,
        **form,
        "v": signed.v,
        "r": signed.r,
        "s": signed.s,
        "type": form.get("type", 0),
    }
    told = {key: hex(value) if isinstance(value, int) else value for key, value in fields.items()}
    return told | {"input": told["data"]}


@pytest.mark.parametrize("form", TOLD.values(), ids=TOLD)
def test_the_signed_bytes_are_rebuilt_from_the_fields_that_a_node_tells(form):
    signed = SIGNER.sign_transaction({**COMMON, **form})
    assert encoded(as_told(form, signed)) == bytes(signed.raw_transaction)


@pytest.mark.parametrize(
    "wrong", [{"type": "0x4"}, {"nonce": None}, {"r": "0x" + "f" * 99}, {"input": 7}, {"accessList": [{}]}, {"v": "x"}]
)
def test_fields_that_make_no_transaction_are_refused(wrong):
    form = FORMS["EIP-1559"]
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        encoded(as_told(form, SIGNER.sign_transaction({**COMMON, **form})) | wrong)


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
