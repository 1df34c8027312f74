"""One step of bringing an outbox's records to the chain. Keeps nothing: all that it knows is in the store.

The slot on the chain says which record arrived last. At most one transaction is on its way: an older one would
have to arrive first, and a gap could never be filled again, since rounds only go up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eth_account.signers.local import LocalAccount

from ledger.abi import encode_call
from ledger.chain import Fees
from ledger.client import Ledger
from ledger.errors import AccountUnfunded, CallRefused, OutboxError, RecordRefused, RpcRefused, TransactionLost
from ledger.payload import HOLD, NO_HASH, next_slot, step_of
from ledger.store import Attempt, Row, Store
from ledger.transact import broadcast, estimate, require_funds, sign

_TOO_CHEAP = ("underpriced", "less than block base fee", "fee cap", "fee too low", "max fee per gas")
_FAR_ABOVE = 8  # times what others pay: a transaction that is still not mined then is not kept out by its fee
_TOO_LATE = ("nonce too low", "nonce is too low", "nonce has already been used")


@dataclass(frozen=True, slots=True)
class Terms:
    """How records are delivered."""

    confirmations: int = 1  # blocks that a record must be deep, its own included
    patience: int = 6  # blocks without it, until a transaction is sent again with a higher fee
    batch: int = 32  # records in one transaction, at most
    highest_fee: int | None = None  # wei per gas; above it records wait until gas is cheaper


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a step works with."""

    store: Store
    ledger: Ledger
    account: LocalAccount
    terms: Terms

    def step(self, session_id: int) -> None:
        """Looks where the chain is, keeps that, and sends what waits, unless it is on its way.

        Raises:
            LedgerError: what keeps the records from arriving; a later step tries again.

        """
        chain = self.ledger.chain
        chain.chain_id()  # another chain may have come up behind the URL
        head = self.ledger.head(session_id, self.account.address)
        height = chain.block_number()
        arrived = self._arrived(session_id, head.slot & ~HOLD)
        waiting = self._keep_places(session_id, arrived, height)
        if self._follow_attempts(arrived, height) or not waiting:
            return
        if head.held:
            raise self._why_held(session_id)
        try:
            with chain.sending:
                self._deliver(waiting[: self.terms.batch], head.slot, height)
        except RecordRefused:
            if self.ledger.head(session_id, self.account.address) == head:
                raise  # else a block came in meanwhile, with these very records

    # ---- where the records are ----

    def _arrived(self, session_id: int, slot: int) -> int:
        """The seq of the last record on the chain, 0 if there is none."""
        start = self.store.start(session_id)
        if start is None:
            if not slot:
                raise RecordRefused(f"{self.account.address} is no member of session {session_id:016x}: join it first")
            self.store.set_start(session_id, slot)
            start = slot
        rows = self.store.latest(session_id)
        self._fill_slots(rows, start)
        arrived = 0 if slot == start else self.store.seq_of(session_id, slot)
        if arrived is None:
            raise self._stray(session_id, slot)
        if any(row.seq > arrived and row.block is not None for row in rows):
            self.store.take_back(session_id, arrived)  # the chain was reorganised
        return arrived

    def _fill_slots(self, rows: Sequence[Row], start: int) -> None:
        """Works out where records that are new lead to."""
        slot, found = start, []
        for row in rows:
            slot = next_slot(slot, row.entry) if row.slot is None else row.slot
            if row.slot is None:
                found.append((row.seq, slot))
        self.store.set_slots(found)

    def _stray(self, session_id: int, slot: int) -> OutboxError:
        me, where = self.account.address, f"session {session_id:016x}"
        if not slot:
            return OutboxError(f"the chain does not know {me} in {where} any more: it was reset, restore its state")
        cure = "stop the other program that uses this key, or bring back the outbox that wrote it"
        return OutboxError(f"{me} has a record in {where} that is not from this outbox {self.store.path}: {cure}")

    def _keep_places(self, session_id: int, arrived: int, height: int) -> list[Row]:
        """The records that have not arrived; for the others, keeps where they were seen and whether that is deep."""
        rows, changed = self.store.latest(session_id), []
        for row in rows:
            if row.seq <= arrived and not row.confirmed:
                block = height if row.block is None else min(row.block, height)
                changed.append(replace(row, block=block, confirmed=height - block + 1 >= self.terms.confirmations))
        self.store.set_places(changed)
        return [row for row in rows if row.seq > arrived]

    def _follow_attempts(self, arrived: int, height: int) -> bool:
        """Whether a block came in after we asked for the slot, so that the next step knows more; keeps what was mined.

        Raises:
            TransactionLost: one was mined and failed; its records are sent again.

        """
        chain, news, failed = self.ledger.chain, False, ""
        attempts = self.store.attempts()
        mined = chain.nonce(self.account.address) if attempts else 0
        for one in attempts:
            if one.nonce >= mined:
                continue
            found = chain.receipt(one.tx_hash)
            if found is None:
                self.store.settle([one.tx_hash])  # another one took its place
                continue
            receipt, succeeded = found
            self.store.set_mined(one.tx_hash, receipt.block, receipt.gas_used)
            news = news or (succeeded and one.last > arrived)
            failed = one.tx_hash if not succeeded and one.block is None else failed
            if height - receipt.block + 1 >= self.terms.confirmations:
                self.store.settle([one.tx_hash])
        if failed:
            raise TransactionLost(f"transaction {failed} failed on the chain: its records are sent again")
        return news

    # ---- sending ----

    def _deliver(self, waiting: Sequence[Row], slot: int, height: int) -> None:
        """Sends, unless it is on its way: then sees to it that it gets there."""
        chain = self.ledger.chain
        pending = chain.nonce(self.account.address, "pending")
        current = _current(self.store.attempts(), waiting[0].seq)
        if current is None or current.nonce > pending:  # nothing on its way, or only beyond a gap
            self._offer(self._attempt(waiting, slot, pending, (chain.fees(), height)))
            return
        ours, stuck = current.first == waiting[0].seq, height - current.height >= self.terms.patience
        fees = chain.fees()
        if (not ours and current.session_id == waiting[0].session_id) or stuck or fees.base > current.most:
            dearer = _dearer(current, fees)
            if dearer or not ours:
                self._offer(self._attempt(waiting, slot, current.nonce, (dearer or fees, height)))
                return
        if current.nonce == pending or chain.mapping("eth_getTransactionByHash", current.tx_hash) is None:
            self._offer(current)  # dropped, or never sent

    def _attempt(self, waiting: Sequence[Row], slot: int, nonce: int, at: tuple[Fees, int]) -> Attempt:
        """A signed transaction for the rows, on disk.

        Raises:
            RecordRefused: the contract would refuse it.
            AccountUnfunded: the account can't pay.

        """
        fees, height = self._affordable(at[0]), at[1]
        chain, me, to = self.ledger.chain, self.account.address, self.ledger.address
        data = _calldata(waiting, slot)
        try:
            gas = estimate(chain, me, to, data)
        except CallRefused as error:
            raise RecordRefused(f"the record of round {waiting[0].round} is refused: {error}", error.reason) from error
        require_funds(chain, me, gas, fees)
        fields = {"nonce": nonce, "gas": gas, "chainId": chain.chain_id(), "data": data, "to": to}
        tx_hash, raw = sign(self.account, fields, fees)
        seqs = waiting[0].seq, waiting[-1].seq
        attempt = Attempt(tx_hash, waiting[0].session_id, nonce, *seqs, fees.most, fees.tip, raw, height)
        self.store.add_attempt(attempt)
        return attempt

    def _affordable(self, fees: Fees) -> Fees:
        highest = self.terms.highest_fee
        if highest is None or fees.most <= highest:
            return fees
        if fees.base >= highest:
            raise AccountUnfunded(f"gas costs {fees.base} wei, above the limit of {highest}: records wait, or raise it")
        return Fees(highest, None if fees.tip is None else min(fees.tip, highest), fees.base)

    def _offer(self, attempt: Attempt) -> None:
        """Hands the transaction to the node; what it says is looked into by the next step."""
        try:
            broadcast(self.ledger.chain, attempt.raw)
        except RpcRefused as error:
            words = str(error).lower()
            if any(one in words for one in _TOO_CHEAP):
                self.store.expire(attempt.tx_hash)
            elif any(one in words for one in _TOO_LATE):
                return  # it, or one like it, is in a block already
            raise

    def _why_held(self, session_id: int) -> RecordRefused:
        state = self.ledger.session(session_id).state
        standing = self.ledger.standing(session_id, self.account.address)
        if standing != "active":
            reason = f"{self.account.address} has {'left' if standing == 'left' else 'been removed'}: rejoin"
        else:
            reason = f"it is {state}: " + ("wait until it is resumed" if state == "paused" else "no record can follow")
        return RecordRefused(f"session {session_id:016x} takes no record, {reason}", "SessionIsNotOpen")


def _current(attempts: Sequence[Attempt], seq: int) -> Attempt | None:
    """The transaction on its way that the record waits for; else the newest, whose nonce the next could take."""
    unmined = [one for one in reversed(attempts) if one.block is None]
    return next((one for one in unmined if one.first == seq), unmined[0] if unmined else None)


def _dearer(before: Attempt, now: Fees) -> Fees | None:
    """A fee that nodes accept in place of the former one: an eighth more. None if it would be far above the market."""
    if before.tip is None or now.tip is None:
        raised = Fees(max(now.most, before.most + before.most // 8 + 1), now.tip, now.base)
    else:
        tip = max(now.tip, before.tip + before.tip // 8 + 1)
        raised = Fees(max(now.most, before.most + before.most // 8 + 1, tip), tip, now.base)
    return raised if raised.most <= _FAR_ABOVE * now.most else None


def _calldata(rows: Sequence[Row], slot: int) -> bytes:
    """`record` for one plain record; `recordAfter` where a second arrival would not be refused, or for several."""
    entries = [(row.round, row.entry[24:56], row.entry[56:]) for row in rows]
    round, update_hash, mix = entries[0]
    if len(rows) == 1 and update_hash != NO_HASH:
        return encode_call("record", step_of(rows[0].session_id, round), update_hash, mix)
    return encode_call("recordAfter", rows[0].session_id, slot, entries)
