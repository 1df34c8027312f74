"""A session's records as commitments, each joined with the mix in the same member's next record. Decodes no mix."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ledger.events import RECORDED
from ledger.log_store import LogStore

Range = tuple[int, int]
"""First and last, both inclusive."""

_EVERYTHING = (0, 1 << 62)
_STRAY = "the record carries the mix of no round: the member's record before it commits to none"

_QUERY = """
with mine as (select round, account, body, block, timestamp, tx_hash, closing,
        lead(body) over chain as next_body, lead(block) over chain as next_block,
        lag(closing) over chain as after_closing,
        (select gas from receipts r where r.tx_hash = e.tx_hash) / count(*) over (partition by tx_hash) as gas
    from events e where kind = ? and block <= ?
    window chain as (partition by account order by block, position))
select round, member, account, body, block, timestamp, tx_hash, next_body, next_block, gas,
    length(body) > 56 and (after_closing is null or after_closing) as stray
from mine left join seats using (account)
where (not closing or stray) and round between ? and ? and block between ? and ?
order by round, member
"""


class Commit(NamedTuple):
    """A record of `round`, and what the member's next record says of it."""

    round: int
    member: int | None  # None for an account that never joined
    account: str  # 40 lower-case hexadecimal digits
    entry: bytes
    block: int
    timestamp: int
    tx_hash: str
    next_entry: bytes | None
    next_block: int | None
    gas: int | None
    stray: bool  # it carries a mix although the member's record before it commits to no update

    @property
    def update_hash(self) -> bytes:
        """32 bytes; zeros in a stray closing record."""
        return self.entry[24:56]

    @property
    def mix(self) -> bytes:
        """The bytes of the round's mix, empty while there is none."""
        return (self.next_entry or b"")[56:] if any(self.update_hash) else b""

    @property
    def fault(self) -> str | None:
        """What is wrong with the record's place among the member's records."""
        return _STRAY if self.stray else None


def commits(
    store: LogStore, indices: Mapping[str, int], rounds: Range | None = None, blocks: Range | None = None
) -> Iterator[Commit]:
    """Commitments of these rounds, made in these blocks, by round and member; stray closing records among them."""
    store.db.execute("create temp table if not exists seats(account text primary key, member integer)")
    store.db.executemany("insert or replace into seats values (?, ?)", indices.items())
    values = (RECORDED, store.last, *(rounds or _EVERYTHING), *(blocks or _EVERYTHING))
    return (Commit(*row) for row in store.db.execute(_QUERY, values))


def recorded_hash(store: LogStore, account: str, round: int) -> bytes | None:
    """The update hash that the account recorded for the round, None if it recorded none."""
    query = """select substr(body, 25, 32) from events
        where kind = ? and round = ? and account = ? and not closing and block <= ?"""
    found = store.db.execute(query, (RECORDED, round, account, store.last)).fetchone()
    return None if found is None else bytes(found[0])


def recorded_block(store: LogStore, account: str, round: int) -> int | None:
    """The block of the account's commitment for the round, None if there is none."""
    query = """select block from events
        where kind = ? and round = ? and account = ? and not closing and block <= ?"""
    found = store.db.execute(query, (RECORDED, round, account, store.last)).fetchone()
    return None if found is None else int(found[0])


def has_passed(store: LogStore, account: str, round: int) -> bool:
    """Whether the account has a record of a later round; then the contract refuses one of this round."""
    query = "select 1 from events where kind = ? and account = ? and round > ? and block <= ? limit 1"
    return store.db.execute(query, (RECORDED, account, round, store.last)).fetchone() is not None


def index_accounts(store: LogStore) -> None:
    """Makes `recorded_mix` fast; only the audit needs that, and readers of records would pay for it."""
    store.db.execute("create index if not exists by_account on events(account, round)")


def recorded_mix(store: LogStore, account: str, round: int) -> bytes:
    """The bytes of the mix that the account recorded of the round, in its next record; empty if it recorded none."""
    query = """select substr(body, 57) from events where kind = ? and account = ? and round > ? and block <= ?
        order by round, block, position limit 1"""
    found = store.db.execute(query, (RECORDED, account, round, store.last)).fetchone()
    return b"" if found is None or recorded_hash(store, account, round) is None else bytes(found[0])


def mixes_since(store: LogStore, block: int) -> Iterator[tuple[str, int, bytes]]:
    """Account, round and bytes of each mix in a record of a later block, in the chain's order."""
    query = """select account, (select max(round) from events c where c.kind = e.kind and c.account = e.account
            and c.round < e.round and not c.closing), substr(body, 57)
        from events e where kind = ? and length(body) > 56 and block > ? and block <= ? order by block, position"""
    for account, round, mix in store.db.execute(query, (RECORDED, block, store.last)):
        if round is not None:
            yield account, int(round), bytes(mix)


def in_order(store: LogStore) -> Iterator[tuple[str, int, bytes, bool, int]]:
    """Every record in the chain's order: account, round, update hash, whether closing, its block's time."""
    query = """select account, round, substr(body, 25, 32), closing, timestamp from events
        where kind = ? and block <= ? order by block, position"""
    for account, round, update_hash, closing, time in store.db.execute(query, (RECORDED, store.last)):
        yield account, int(round), bytes(update_hash), bool(closing), int(time)


def rounds_of(store: LogStore) -> Range | None:
    """The first and the last round that was committed to, None before the first."""
    query = "select min(round), max(round) from events where kind = ? and not closing and block <= ?"
    first, last = store.db.execute(query, (RECORDED, store.last)).fetchone()
    return None if first is None else (first, last)
