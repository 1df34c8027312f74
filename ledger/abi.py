"""The contract's ABI: calls to bytes, answers and custom errors back to values. Knows no network."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak


@cache
def artifact() -> dict[str, Any]:
    """What the compiler made of the contract: `abi`, `bytecode`, `runtime`, `compiler`, `input_sha256`."""
    found: dict[str, Any] = json.loads((files("ledger") / "artifacts" / "FederatedLedger.json").read_text())
    return found


@cache
def _entry(kind: str, name: str) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Keccak-256 of the signature, input types, output types."""
    one = next(e for e in artifact()["abi"] if e["type"] == kind and e["name"] == name)
    inputs = tuple(collapse_if_tuple(i) for i in one["inputs"])
    outputs = tuple(collapse_if_tuple(o) for o in one.get("outputs", ()))
    return keccak(text=f"{name}({','.join(inputs)})"), inputs, outputs


def encode_call(name: str, *args: Any) -> bytes:
    """The calldata of one of the contract's functions."""
    digest, inputs, _ = _entry("function", name)
    return digest[:4] + encode(inputs, args)


def selector_of(name: str) -> bytes:
    """The first four bytes of the calldata of one of the contract's functions."""
    return _entry("function", name)[0][:4]


def decode_answer(name: str, answer: bytes) -> tuple[Any, ...]:
    """What the function returned.

    Raises:
        DecodingError: `answer` is not what the function returns (empty where there is no contract).

    """
    return tuple(decode(_entry("function", name)[2], answer))


def topic_of(event: str) -> str:
    """The first topic of an event's logs, in hexadecimal."""
    return "0x" + _entry("event", event)[0].hex()


@cache
def _errors() -> dict[bytes, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    found = {}
    for one in artifact()["abi"]:
        if one["type"] == "error":
            types = tuple(collapse_if_tuple(i) for i in one["inputs"])
            selector = keccak(text=f"{one['name']}({','.join(types)})")[:4]
            found[selector] = (one["name"], types, tuple(i["name"] for i in one["inputs"]))
    return found


def decode_error(data: str | None) -> tuple[str, dict[str, Any]] | None:
    """The custom error's name and its values by name; None if the data is no error of our contract."""
    try:
        raw = bytes.fromhex((data or "").removeprefix("0x"))
        name, types, names = _errors()[raw[:4]]
        return name, dict(zip(names, decode(types, raw[4:]), strict=True))
    except (ValueError, KeyError, DecodingError):
        return None


def sentence(name: str, values: dict[str, Any]) -> str:
    """A custom error as words: `RoundIsRecordedAlready(round=3, …)` gives "round is recorded already (round 3, …)"."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    named = ", ".join(f"{''.join(f' {c.lower()}' if c.isupper() else c for c in k)} {v}" for k, v in values.items())
    return f"{words} ({named})"
