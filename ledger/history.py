"""A session's past as DataFrames for people, and as steps for the audit. Needs no key and no node of ours.

Every question first reads on to the chain's head, and forgets what a reorganisation undid.
"""

import difflib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from ledger import frames
from ledger.chain import checksummed
from ledger.client import Ledger
from ledger.commits import (
    Commit,
    Range,
    commits,
    has_passed,
    in_order,
    index_accounts,
    mixes_since,
    recorded_block,
    recorded_hash,
    recorded_mix,
    rounds_of,
)
from ledger.errors import BrokenChain, HistoryError, PayloadError
from ledger.events import EVENTS
from ledger.log_store import LogStore, Progress, Source
from ledger.members import MEMBER_EVENTS, fold_members
from ledger.payload import decode_mix
from ledger.replay import verify
from ledger.values import MemberEntry, Mix, RecordedMix, SessionEntry, Step


class History:
    """The events of one session. Not thread-safe; close it, or use it in a `with` block.

    Args:
        ledger: the contract.
        session_id: the session.
        cache: a SQLite file that later runs read on from; None reads everything anew.
        behind: blocks before the chain's head that are left out, for who wants nothing that may still be undone.
        progress: gets (blocks read, blocks to read) while events are read.

    Raises:
        SessionUnknown: the contract has no such session.
        NoContract, NotOurContract: there is no contract of ours at the address.
        HistoryError: the cache holds another session.

    """

    def __init__(
        self,
        ledger: Ledger,
        session_id: int,
        cache: Path | None = None,
        behind: int = 0,
        progress: Progress | None = None,
    ) -> None:
        ledger.check()
        self.ledger = ledger
        self.session: SessionEntry = ledger.session(session_id)
        self._behind, self._progress, self._cache = behind, progress, cache
        self._store = LogStore(Source(ledger.chain, ledger.address, self.session), cache)
        self._folded: list[MemberEntry] | None = None  # the members as of the last reading
        self._verified: tuple[str | None, int] | None = None  # the block up to which all chains are right, and records

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.DatabaseError):
            where = "its temporary file" if self._cache is None else f"its cache {self._cache}"
            what = f"the history can't read {where} ({error})"
            raise HistoryError(f"{what}: delete that file, or name another one; is the disk full?") from error

    def close(self) -> None:
        """Closes the cache."""
        self._store.close()

    def follow(self) -> int:
        """Reads on to the chain's head; the last block that is covered. Every other method does this first."""
        self._folded = None
        return self._store.follow(self._behind, self._progress)

    # ---- for people ----

    def members(self) -> pd.DataFrame:
        """One row per member, by index; columns and dtypes are frames.MEMBERS."""
        return frames.members_frame(self.member_entries())

    def records(self, rounds: Range | None = None, blocks: Range | None = None, gas: bool = True) -> pd.DataFrame:
        """One row per (round, member), with the mix from the member's next record; frames.RECORDS.

        Args:
            rounds: first and last, inclusive.
            blocks: first and last block of the commitments, inclusive.
            gas: False leaves the column `gas` empty, which saves a receipt per transaction.

        """
        return frames.records_frame(self._select(rounds, blocks, gas))

    def trust_rows(self, rounds: Range | None = None, blocks: Range | None = None) -> pd.DataFrame:
        """One row per (round, member, peer): what each member gave to each of its inputs; frames.TRUST_ROWS."""
        return frames.trust_frame(self._select(rounds, blocks, gas=False))

    def trust_matrix(self, round: int) -> pd.DataFrame:
        """The trust matrix of a round: fractions, rows are members, columns peers, both by index.

        A row is NaN where the member recorded no mix for the round.

        """
        rows = self.trust_rows((round, round))
        return frames.trust_matrix(rows, len(self._indices()))

    def influence(self, round: int) -> "pd.Series[float]":
        """How much each member counts in the long run, by the trust matrix of a round; sums to 1."""
        return frames.influence(self.trust_matrix(round))

    def delays(self, rounds: Range | None = None) -> pd.DataFrame:
        """When each record came: seconds after the round's first, and after the member's last; frames.DELAYS."""
        return frames.delays_frame(self.records(rounds, gas=False))

    def gas(self, event: str | None = None) -> pd.DataFrame:
        """One row per transaction that left an event in the session: what it cost; frames.GAS.

        Args:
            event: only transactions whose first event is this one, such as "Recorded".

        """
        if event is not None and event not in EVENTS:
            near = difflib.get_close_matches(event, EVENTS, 1)
            raise HistoryError(f"there is no event {event!r}: {f'did you mean {near[0]}?' if near else EVENTS}")
        self.follow()
        self._store.fetch_receipts()
        found = frames.transposed(frames.GAS, self._transactions())
        return found if event is None else found[found["event"] == event].reset_index(drop=True)

    # ---- for nodes ----

    def mixes(self, after: int = -1) -> tuple[int, list[RecordedMix]]:
        """The last block that is covered, and the mixes in records of later blocks than `after`, in the chain's order.

        As the chain's node tells it: unlike `steps`, no hash chain is verified. Malformed mixes are left out.
        """
        head = self.follow()
        index_accounts(self._store)
        indices, found = self._indices(), []
        for account, round, encoded in mixes_since(self._store, after):
            try:
                mix = decode_mix(encoded)
            except PayloadError:
                continue
            if account in indices and mix is not None:
                found.append(RecordedMix(indices[account], round, mix.snapshot))
        return head, found

    # ---- for the audit ----

    def member_entries(self) -> list[MemberEntry]:
        """All who ever joined, by index, with keys and bindings."""
        self.follow()
        return list(self._members())

    def verify(self) -> int:
        """The number of records, all of which are in a hash chain that ends in its member's slot on the ledger.

        Raises:
            BrokenChain: a record is missing, altered, out of order, or of nobody who joined.

        """
        self.follow()
        count = self._counted()
        if count is None:
            count = verify(self._store, self._members, self.follow)
            self._verified = self._store.mark, count
        return count

    def steps(self, rounds: Range | None = None) -> Iterator[Step]:
        """Every member's rounds, by round and member, from chains that were verified before the first one is given.

        Holds one step at a time in memory. Steps of records that are not in a chain do not exist: see `verify`.

        Raises:
            BrokenChain: as `verify`.

        """
        if self._counted() is None:
            self.verify()
        index_accounts(self._store)
        for commit in commits(self._store, self._indices(), rounds):
            yield _step(commit)

    def verified_members(self) -> list[MemberEntry]:
        """All who had joined when the chains were last verified: the members of `steps`, whoever joins meanwhile."""
        if self._counted() is None:
            self.verify()
        return list(self._members())

    def mixed_hash(self, member: int, round: int) -> bytes | None:
        """The hash of the parameters that a member recorded as its mix of a round, None if it recorded none."""
        mix = self._mix(member, round)
        return mix.mixed_hash if mix else None

    def in_order(self) -> Iterator[tuple[int, int, bytes, bool, int]]:
        """Every member's records in the ledger's order: member, round, update hash, whether closing, block's time."""
        self.follow()
        indices = self._indices()
        for account, round, update_hash, closing, time in in_order(self._store):
            if account in indices:
                yield indices[account], round, update_hash, closing, time

    def update_hash(self, member: int, round: int) -> bytes | None:
        """What a member committed to for a round, None if to nothing; of the events as they were last read."""
        return recorded_hash(self._store, self._account(member), round)

    def update_block(self, member: int, round: int) -> int | None:
        """The block in which a member committed to its update of a round, None if in none; as `update_hash`."""
        return recorded_block(self._store, self._account(member), round)

    def has_passed(self, member: int, round: int) -> bool:
        """Whether a member recorded a later round, so that this one can't be recorded any more; as `update_hash`."""
        return has_passed(self._store, self._account(member), round)

    def snapshot(self, member: int, round: int) -> bytes | None:
        """The digest of the snapshot that a member recorded of a round, None if of none; as `update_hash`."""
        mix = self._mix(member, round)
        return mix.snapshot if mix else None

    def rounds(self) -> Range | None:
        """The first and the last round that any member committed to, None before the first."""
        self.follow()
        return rounds_of(self._store)

    # ---- ----

    def _counted(self) -> int | None:
        """The number of records, if all chains were right as of the block up to which events were last read."""
        return self._verified[1] if self._verified is not None and self._verified[0] == self._store.mark else None

    def _mix(self, member: int, round: int) -> Mix | None:
        """The mix that a member recorded of a round; None if there is none, or it is none."""
        try:
            return decode_mix(recorded_mix(self._store, self._account(member), round))
        except PayloadError:
            return None

    def _members(self) -> list[MemberEntry]:
        if self._folded is None:
            chain_id = self.ledger.chain.expected_id or self.ledger.chain.chain_id()
            events = self._store.events(MEMBER_EVENTS)
            self._folded = fold_members(events, chain_id, self.ledger.address, self.session.session_id)
        return self._folded

    def _indices(self) -> dict[str, int]:
        return {member.account.lower()[2:]: member.index for member in self._members()}

    def _account(self, member: int) -> str:
        members = self._members()
        return members[member].account.lower()[2:] if 0 <= member < len(members) else ""

    def _select(self, rounds: Range | None, blocks: Range | None, gas: bool) -> list[Commit]:
        head = self.follow()
        _require_range("rounds", rounds, rounds_of(self._store))
        _require_range("blocks", blocks, (self.session.created_block, head))
        if gas:
            self._store.fetch_receipts()
        found = [one for one in commits(self._store, self._indices(), rounds, blocks) if any(one.update_hash)]
        for one in found:
            if one.member is None:
                what = f"the record of round {one.round} in block {one.block} is of 0x{one.account}, which never joined"
                raise BrokenChain(f"{what}: ask another node", f"0x{one.account}", None, one.round)
        return found

    def _transactions(self) -> Iterator[tuple[Any, ...]]:
        query = """select tx_hash, min(block), timestamp, kind, account, min(round), sum(kind = 'Recorded'), gas, price
            from (select * from events where block <= ? order by block, position) join receipts using (tx_hash)
            group by tx_hash order by min(block), min(position)"""
        indices = self._indices()
        checksummed = {member.account.lower()[2:]: member.account for member in self._members()}
        for tx, block, time, kind, account, round, records, gas, price in self._store.db.execute(
            query, [self._store.last]
        ):
            who = checksummed.get(account, f"0x{account}" if account else None)
            yield tx, block, time, kind, who, indices.get(account), round, records, gas, price, gas * price / 1e18


def _step(commit: Commit) -> Step:
    assert commit.member is not None, "verified before"
    fault, mix = commit.fault, None
    try:
        mix = decode_mix(commit.mix)
    except PayloadError as error:
        fault = fault or str(error)
    return Step(
        member=commit.member,
        account=checksummed(f"0x{commit.account}"),
        round=commit.round,
        update_hash=commit.update_hash,
        mix=mix,
        block=commit.block,
        tx_hash=commit.tx_hash,
        mixed_block=commit.next_block if mix else None,
        fault=fault,
    )


def _require_range(what: str, wanted: Range | None, known: Range | None) -> None:
    if wanted is None:
        return
    first, last = wanted
    if first > last:
        raise HistoryError(f"{what} {first} to {last} are no range: did you mean {last} to {first}?")
    if known is None:
        raise HistoryError(f"{what} {first} to {last} are not on the ledger: nothing is recorded yet")
    if last < known[0] or first > known[1]:
        raise HistoryError(f"{what} {first} to {last} are not on the ledger: it has {known[0]} to {known[1]}")
