"""The history's DataFrames: fixed columns and dtypes, also when there is nothing in them. Knows no chain."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ledger.bulk import decode_mixes
from ledger.chain import checksummed
from ledger.commits import Commit
from ledger.text import cid_of, peer_id_of
from ledger.values import ABSENT, MemberEntry

_TIME = "datetime64[ns, UTC]"
_TEXT = "string"

MEMBERS = {
    "member": "int64",
    "account": _TEXT,
    "peer_id": _TEXT,
    "standing": _TEXT,  # active, left or removed
    "bound": "bool",  # the libp2p key really signed the binding
    "joined_block": "int64",
    "addresses": _TEXT,  # multiaddrs, separated by a blank
}
RECORDS = {
    "round": "int64",
    "member": "int64",
    "account": _TEXT,
    "update_hash": _TEXT,  # SHA-256, hexadecimal
    "mixed_hash": _TEXT,
    "snapshot": _TEXT,  # CID
    "epsilon": "float64",
    "known_members": "Int64",  # when the cohort was drawn
    "block": "int64",  # of the commitment
    "timestamp": _TIME,
    "tx_hash": _TEXT,
    "gas": "Int64",  # this record's share of its transaction
    "complete": "bool",  # the mix is there
    "fault": _TEXT,  # what is wrong with the record in itself
}
TRUST_ROWS = {
    "round": "int64",
    "member": "int64",
    "peer": "int64",
    "weight": "int64",  # as recorded: of the row's sum, which is 65,535 unless gradients are mixed
    "lag": "int64",  # rounds; -128 for an absent peer
    "absent": "bool",
}
GAS = {
    "tx_hash": _TEXT,
    "block": "int64",
    "timestamp": _TIME,
    "event": _TEXT,  # the transaction's first event, such as Recorded or MemberJoined
    "account": _TEXT,
    "member": "Int64",
    "round": "Int64",  # of its first record
    "records": "int64",
    "gas": "Int64",
    "gas_price": "Int64",  # wei
    "cost": "float64",  # ether
}
DELAYS = {
    "round": "int64",
    "member": "int64",
    "timestamp": _TIME,
    "behind_s": "float64",  # seconds after the round's first record
    "interval_s": "float64",  # seconds since this member's record before
}


def frame(schema: Mapping[str, str], columns: Mapping[str, Any]) -> pd.DataFrame:
    """A DataFrame of the schema's columns, in its order and with its dtypes."""
    return pd.DataFrame({name: _column(columns[name], dtype) for name, dtype in schema.items()})


def _column(values: Any, dtype: str) -> "pd.Series[Any]":
    if dtype == _TIME:  # from seconds
        return pd.Series(np.array(values, dtype="datetime64[s]").astype("datetime64[ns]")).dt.tz_localize("UTC")
    return pd.Series(values, dtype=dtype)


def transposed(schema: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A DataFrame of rows whose values are in the schema's order."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return frame(schema, dict(zip(schema, columns, strict=True)))


def members_frame(members: Sequence[MemberEntry]) -> pd.DataFrame:
    """One row per member."""
    return transposed(
        MEMBERS,
        (
            (m.index, m.account, peer_id_of(m.peer_key), m.standing, m.bound, m.joined_block, " ".join(m.addresses))
            for m in members
        ),
    )


def records_frame(commits: Sequence[Commit]) -> pd.DataFrame:
    """One row per commitment, with the mix that the member's next record carries."""
    mixes = decode_mixes([one.mix for one in commits])
    accounts = {account: checksummed(f"0x{account}") for account in {one.account for one in commits}}
    heads = mixes.headers
    return frame(
        RECORDS,
        {
            "round": [one.round for one in commits],
            "member": [one.member for one in commits],
            "account": [accounts[one.account] for one in commits],
            "update_hash": [one.update_hash.hex() for one in commits],
            "mixed_hash": [None if one is None else one.mixed_hash.hex() for one in heads],
            "snapshot": [None if one is None or one.snapshot is None else cid_of(one.snapshot) for one in heads],
            "epsilon": [np.nan if one is None else one.epsilon for one in heads],
            "known_members": [None if one is None else one.members for one in heads],
            "block": [one.block for one in commits],
            "timestamp": [one.timestamp for one in commits],
            "tx_hash": [one.tx_hash for one in commits],
            "gas": [one.gas for one in commits],
            "complete": [one is not None for one in heads],
            "fault": [one.fault or fault for one, fault in zip(commits, mixes.faults, strict=True)],
        },
    )


def trust_frame(commits: Sequence[Commit]) -> pd.DataFrame:
    """One row per input of every valid mix."""
    mixes = decode_mixes([one.mix for one in commits])
    return frame(
        TRUST_ROWS,
        {
            "round": np.repeat(np.array([one.round for one in commits], dtype=np.int64), mixes.counts),
            "member": np.repeat(np.array([one.member for one in commits], dtype=np.int64), mixes.counts),
            "peer": mixes.peers,
            "weight": mixes.weights,
            "lag": mixes.lags,
            "absent": mixes.lags == ABSENT,
        },
    )


def trust_matrix(rows: pd.DataFrame, members: int) -> pd.DataFrame:
    """The trust rows of one round as a square of fractions; a row of NaN for a member that recorded no mix."""
    matrix: npt.NDArray[np.float64] = np.zeros((members, members))
    matrix[[i for i in range(members) if i not in set(rows["member"])]] = np.nan
    shares = rows["weight"] / rows.groupby("member")["weight"].transform("sum")
    known = rows["peer"] < members  # a mix may name a member that never was: that is the audit's business
    matrix[rows["member"][known], rows["peer"][known]] = shares[known]
    names = pd.RangeIndex(members)
    return pd.DataFrame(matrix, index=names.rename("member"), columns=names.rename("peer"))


def influence(matrix: pd.DataFrame) -> "pd.Series[float]":
    """How much each member counts in the long run: the stationary distribution of the trust matrix, which sums to 1.

    Members that recorded no mix count as trusting only themselves. Starts from equal shares, so that it is unique.
    Source: DeGroot, Reaching a Consensus, 1974.
    """
    weights = matrix.to_numpy(copy=True)
    silent = np.isnan(weights).any(axis=1)
    weights[silent] = np.eye(len(weights))[silent]
    shares = np.full(len(weights), 1 / max(1, len(weights)))
    averaged = (weights + np.eye(len(weights))) / 2  # lazy: the same fixed point, and no cycles
    for _ in range(64):  # by squaring: the power 2**64
        averaged = averaged @ averaged
        averaged /= averaged.sum(axis=1, keepdims=True)
    return pd.Series(shares @ averaged, index=matrix.index, name="influence")


def delays_frame(records: pd.DataFrame) -> pd.DataFrame:
    """When each record came, after the round's first one and after the member's own one before."""
    times = records["timestamp"]
    behind = times - records.groupby("round")["timestamp"].transform("min")
    interval = records.sort_values("round").groupby("member")["timestamp"].diff().reindex(records.index)
    columns = {name: records[name] for name in ("round", "member")}
    seconds = {"behind_s": behind.dt.total_seconds(), "interval_s": interval.dt.total_seconds()}
    return pd.DataFrame({**columns, "timestamp": times, **seconds}).astype(DELAYS)
