"""Many mixes at once, as columns: what `payload.decode_mix` tells of one, some fifty times faster. Knows no chain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ledger.errors import PayloadError
from ledger.payload import decode_mix
from ledger.values import ABSENT, WEIGHT_SUM

_INPUT = np.dtype([("peer", ">u2"), ("weight", ">u2"), ("lag", "i1")])
_SNAPSHOT, _EPSILON = 1, 2
_HASH_AT, _FIXED = 3, 35


@dataclass(frozen=True, slots=True)
class Header:
    """What a mix says before its inputs, which begin at byte `at`."""

    members: int
    mixed_hash: bytes
    snapshot: bytes | None
    epsilon: float
    at: int


@dataclass(frozen=True, slots=True)
class Mixes:
    """n mixes as columns. `headers[i]` is None where there is no valid mix; `faults[i]` says why, if it is garbage.

    Inputs of all valid mixes lie one after the other: `counts[i]` of them (0 for none) belong to mix i.
    """

    headers: list[Header | None]
    faults: list[str | None]
    counts: npt.NDArray[np.int64]  # [n]
    peers: npt.NDArray[np.int64]  # [inputs]
    weights: npt.NDArray[np.int64]  # [inputs]
    lags: npt.NDArray[np.int64]  # [inputs]


def decode_mixes(payloads: Sequence[bytes]) -> Mixes:
    """The mixes that the payloads stand for; an empty payload is none, a wrong one a fault. Raises nothing."""
    headers = [_header(payload) for payload in payloads]
    wrong = {i for i, (one, payload) in enumerate(zip(headers, payloads, strict=True)) if payload and one is None}
    wrong |= _wrong_rows(headers, payloads)
    faults: list[str | None] = [None] * len(payloads)
    for i in wrong:  # few or none: say it in the words of the one place that knows all rules
        try:
            decode_mix(payloads[i])
        except PayloadError as error:
            headers[i], faults[i] = None, str(error)
    flat, counts = _inputs(headers, payloads)
    columns = {name: flat[name].astype(np.int64) for name in ("peer", "weight", "lag")}
    return Mixes(headers, faults, counts, columns["peer"], columns["weight"], columns["lag"])


def _header(payload: bytes) -> Header | None:
    if len(payload) <= _FIXED or payload[0] > _SNAPSHOT | _EPSILON:
        return None
    at, snapshot, epsilon = _FIXED, None, np.nan
    if payload[0] & _SNAPSHOT:
        snapshot, at = payload[at : at + 32], at + 32
    if payload[0] & _EPSILON:
        epsilon, at = int.from_bytes(payload[at : at + 4], "big") / 1_000_000, at + 4
    if len(payload) <= at or (len(payload) - at) % _INPUT.itemsize:
        return None
    return Header(int.from_bytes(payload[1:_HASH_AT], "big"), payload[_HASH_AT:_FIXED], snapshot, epsilon, at)


def _inputs(
    headers: Sequence[Header | None], payloads: Sequence[bytes]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    parts = [b"" if one is None else payload[one.at :] for one, payload in zip(headers, payloads, strict=True)]
    counts = np.array([len(part) // _INPUT.itemsize for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), dtype=_INPUT), counts


def _wrong_rows(headers: Sequence[Header | None], payloads: Sequence[bytes]) -> set[int]:
    """Indices of mixes whose inputs break a rule of docs/protocol.md, sections 6 and 7."""
    flat, counts = _inputs(headers, payloads)
    row = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(row, weights=flat["weight"], minlength=len(counts))
    wrong = (counts > 0) & ((sums < 1) | (sums > WEIGHT_SUM))
    descending = (np.diff(flat["peer"].astype(np.int64)) <= 0) & (row[1:] == row[:-1])
    wrong[row[1:][descending]] = True
    wrong[row[(flat["lag"] == ABSENT) & (flat["weight"] > 0)]] = True
    return set(np.flatnonzero(wrong).tolist()) | {i for i, one in enumerate(headers) if one and not one.members}
