"""The contract as Python: sessions, members, heads, and one record at a time. The outbox makes recording durable."""

from collections.abc import Sequence

from eth_abi.exceptions import DecodingError
from eth_account.signers.local import LocalAccount

from ledger.abi import artifact, decode_answer, encode_call
from ledger.chain import Chain, checksummed
from ledger.errors import CallRefused, NoContract, NotOurContract, RecordRefused, SessionUnknown
from ledger.members import fetch_members
from ledger.payload import NO_HASH, check_record, encode_mix, head_of, session_id_of, step_of
from ledger.transact import transact, wait_for
from ledger.values import Head, MemberEntry, Membership, Receipt, Record, SessionEntry

STATES = ("unknown", "open", "paused", "closed")
STANDINGS = ("stranger", "admitted", "active", "left", "removed")
_PAGE = 400  # members whose slots one pause, resume or close reaches in one transaction: some 3 million gas


def deploy(chain: Chain, account: LocalAccount) -> str:
    """The address of a new contract, deployed and paid for by `account`."""
    receipt = transact(chain, account, None, bytes.fromhex(artifact()["bytecode"][2:]))
    found = chain.mapping("eth_getTransactionReceipt", receipt.tx_hash) or {}
    return checksummed(str(found.get("contractAddress")))


class Ledger:
    """Our contract at an address of a chain. Synchronous and thread-safe; each request has the chain's deadline.

    Args:
        chain: where it is.
        address: of the contract.
        check: False puts the check off (`check()` makes it), for a node that starts while the chain is down.

    Raises:
        NoContract: there is no code at the address.
        NotOurContract: there is other code.

    """

    def __init__(self, chain: Chain, address: str, check: bool = True) -> None:
        self.chain = chain
        try:
            self.address = checksummed(address)
        except ValueError as error:
            raise NoContract(f"{address!r} is no address: give the contract's, 0x and 40 hexadecimal digits") from error
        if check:
            self.check()

    def check(self) -> None:
        """Nothing, if our contract's very code is at the address."""
        code = self.chain.code(self.address)
        if not code:
            cure = "check the address and the RPC URL"
            raise NoContract(f"there is no contract at {self.address} on chain {self.chain.chain_id()}: {cure}")
        if code.hex() != artifact()["runtime"][2:]:
            cure = "check the address, or use the version of fl-node that deployed it"
            raise NotOurContract(f"the {len(code)} bytes of code at {self.address} are not FederatedLedger: {cure}")

    # ---- views ----

    def session(self, session_id: int) -> SessionEntry:
        """A session as the contract knows it.

        Raises:
            SessionUnknown: there is none with this id.

        """
        ((creator, state, admission, count, held, block, config),) = self._view("session", session_id)
        if not state:
            cure = "check the session file, the contract and the RPC URL"
            raise SessionUnknown(f"the ledger {self.address} has no session {session_id:016x}: {cure}")
        creator = checksummed(creator)
        return SessionEntry(session_id, creator, STATES[state], admission, count, held, block, config)

    def members(self, session_id: int) -> list[MemberEntry]:
        """All who ever joined, by index, with their present addresses and standing. Read from the events."""
        return fetch_members(self.chain, self.address, self.session(session_id))

    def standing(self, session_id: int, account: str) -> str:
        """How an account stands to a session: stranger, admitted, active, left or removed."""
        _, standing = self._view("memberOf", session_id, account)
        return STANDINGS[standing]

    def head(self, session_id: int, account: str) -> Head:
        """A member's slot; all zero for an account that never joined."""
        (slot,) = self._view("slotOf", session_id, account)
        return head_of(slot)

    def _view(self, name: str, *args: object) -> tuple:  # type: ignore[type-arg]
        answer = self.chain.read(self.address, encode_call(name, *args))
        try:
            return decode_answer(name, answer)
        except DecodingError as error:
            self.check()
            raise NotOurContract(
                f"{self.address} answers {name} with {answer.hex()[:40]!r}: check the address"
            ) from error

    # ---- sessions ----

    def create_session(
        self, account: LocalAccount, config_hash: bytes, admission: bool = False, config_cid: str = ""
    ) -> int:
        """The id of the session that `account` just created.

        Args:
            account: the creator; pays.
            config_hash: SHA-256 of the session file.
            admission: whether only accounts that the creator admits may join.
            config_cid: where the session file can be had, or empty.

        """
        session_id = session_id_of(account.address, config_hash)
        self._send(account, "createSession", config_hash, admission, config_cid)
        return session_id

    def pause(self, account: LocalAccount, session_id: int) -> None:
        """Stops joining and recording, until `resume`. One transaction for every 400 members."""
        self._hold(account, "pause", session_id)

    def close(self, account: LocalAccount, session_id: int) -> None:
        """Stops joining and recording for good. One transaction for every 400 members."""
        self._hold(account, "close", session_id)

    def _hold(self, account: LocalAccount, name: str, session_id: int) -> None:
        self._send(account, name, session_id, _PAGE)
        while (found := self.session(session_id)).held_count < found.member_count:
            self._send(account, name, session_id, _PAGE)

    def resume(self, account: LocalAccount, session_id: int) -> None:
        """Opens a paused session again. One transaction for every 400 members."""
        self._send(account, "resume", session_id, _PAGE)
        while self.session(session_id).held_count:
            self._send(account, "resume", session_id, _PAGE)

    # ---- members ----

    def join(self, account: LocalAccount, session_id: int, membership: Membership) -> int:
        """The index of the member that `account` just became."""
        addresses = " ".join(membership.addresses)
        self._send(account, "join", session_id, membership.peer_key, membership.binding, addresses)
        index, _ = self._view("memberOf", session_id, account.address)
        return int(index)

    def leave(self, account: LocalAccount, session_id: int) -> Receipt:
        """Ends the account's part in the session; its records stay, and `rejoin` brings it back."""
        return self._send(account, "quit", session_id)

    def rejoin(self, account: LocalAccount, session_id: int, addresses: Sequence[str]) -> Receipt:
        """Brings a member that left back, under its old index, key and chain of records."""
        return self._send(account, "rejoin", session_id, " ".join(addresses))

    def admit(self, account: LocalAccount, session_id: int, accounts: Sequence[str]) -> Receipt:
        """Lets accounts join, or removed members return; `account` is the creator."""
        return self._send(account, "admit", session_id, list(accounts))

    def remove(self, account: LocalAccount, session_id: int, member: str) -> Receipt:
        """Ends a member's part in the session; `account` is the creator."""
        return self._send(account, "remove", session_id, member)

    def set_addresses(self, account: LocalAccount, session_id: int, addresses: Sequence[str]) -> Receipt:
        """Tells the others where the member can be reached now."""
        return self._send(account, "setAddresses", session_id, " ".join(addresses))

    # ---- records ----

    def submit(self, account: LocalAccount, record: Record) -> Receipt:
        """The receipt of one record. Not durable: a node uses the outbox.

        Raises:
            RecordRefused: the contract refuses it; `reason` names its custom error.

        """
        try:
            return self._send(account, "record", *record_arguments(record))
        except CallRefused as error:
            raise RecordRefused(f"the record of round {record.round} is refused: {error}", error.reason) from error

    def wait(self, tx_hash: str, timeout: float = 60.0) -> Receipt:
        """The receipt of a transaction of one's own, once it is mined."""
        return wait_for(self.chain, tx_hash, timeout)[0]

    def _send(self, account: LocalAccount, name: str, *args: object) -> Receipt:
        return transact(self.chain, account, self.address, encode_call(name, *args))


def record_arguments(record: Record) -> tuple[int, bytes, bytes]:
    """What the contract's `record` takes."""
    check_record(record)
    return step_of(record.session_id, record.round), record.update_hash or NO_HASH, encode_mix(record.mix)
