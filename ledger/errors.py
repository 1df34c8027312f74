"""The tree of errors that a caller of the ledger can meet; knows nothing of how they are shown.

LedgerError              what was wrong, the value, and the cure, in one line
├── ChainUnreachable     the RPC does not answer in time, or what answers is no Ethereum RPC
├── RpcRefused           the RPC answered with an error of its own
├── WrongChain           the RPC serves another chain than the session's
├── NoContract           no code at the contract's address
├── NotOurContract       other code than ours at the contract's address
├── SessionUnknown       the contract has no such session
├── CallRefused          the contract refused a call; `reason` is its custom error
│   └── RecordRefused    the contract refused a record
├── AccountUnfunded      the account can't pay for its transactions
├── TransactionLost      a transaction was not mined in time
├── KeystoreError        a keystore file that can't be written or used
│   └── WrongPassphrase  the passphrase does not open the keystore
├── PayloadError         bytes that are no mix, or numbers that no record can hold
├── OutboxError          the outbox's file, or a record that contradicts it
├── HistoryError         a range, a round or events that can't be
│   └── BrokenChain      events that do not add up to the slot on the ledger
├── CompileError         the compiler is missing or refuses the contract
└── DevnetError          a development chain that can't be started or reached
"""


class LedgerError(Exception):
    """Says in one line what was wrong, the offending value, and the cure."""


class ChainUnreachable(LedgerError):
    """The RPC does not answer in time, or what answers is no Ethereum RPC."""


class RpcRefused(LedgerError):
    """The RPC answered with an error of its own: its code, message and data."""

    def __init__(self, message: str, code: int = 0, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class WrongChain(LedgerError):
    """The RPC serves another chain than the session's."""


class NoContract(LedgerError):
    """There is no code at the contract's address."""


class NotOurContract(LedgerError):
    """There is other code than ours at the contract's address."""


class SessionUnknown(LedgerError):
    """The contract has no such session."""


class CallRefused(LedgerError):
    """The contract refused a call; `reason` names its custom error."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RecordRefused(CallRefused):
    """The contract refused a record."""


class AccountUnfunded(LedgerError):
    """The account can't pay for its transactions."""


class TransactionLost(LedgerError):
    """A transaction was not mined in time."""


class KeystoreError(LedgerError):
    """A keystore file can't be written or used."""


class WrongPassphrase(KeystoreError):
    """The passphrase does not open the keystore."""


class PayloadError(LedgerError):
    """Bytes are no mix, or numbers are such that no record can hold them."""


class OutboxError(LedgerError):
    """The outbox's file can't be used, or a record contradicts one that it holds."""


class HistoryError(LedgerError):
    """A range, a round or events that can't be."""


class BrokenChain(HistoryError):
    """Events do not add up to the slot on the ledger: a record is missing, altered or out of order.

    `account` says whose, `member` its index, if it has one, and `round` the first round in doubt, if that is known.
    """

    def __init__(self, message: str, account: str = "", member: int | None = None, round: int | None = None) -> None:
        super().__init__(message)
        self.account = account
        self.member = member
        self.round = round


class CompileError(LedgerError):
    """The compiler is missing or refuses the contract."""


class DevnetError(LedgerError):
    """A development chain can't be started or reached."""
