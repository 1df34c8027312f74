"""The chain, for a node and for a notebook: a contract's sessions, members and records, and a chain to try it on.

Synchronous: whoever has an event loop calls it from a thread. Knows nothing of the node.

    from ledger import History, Ledger, connect
    history = History(Ledger(connect("http://127.0.0.1:8545"), "0x…"), 0x1234…)
    history.records(), history.trust_matrix(3)
"""

from ledger.chain import Chain, connect
from ledger.client import Ledger, deploy
from ledger.devnet import Devnet, DevnetOptions
from ledger.errors import (
    AccountUnfunded,
    BrokenChain,
    CallRefused,
    ChainUnreachable,
    DevnetError,
    HistoryError,
    KeystoreError,
    LedgerError,
    NoContract,
    NotOurContract,
    OutboxError,
    PayloadError,
    RecordRefused,
    SessionUnknown,
    WrongChain,
    WrongPassphrase,
)
from ledger.history import History
from ledger.keys import change_passphrase, create_keystore, load_keystore
from ledger.outbox import Outbox, OutboxStatus
from ledger.payload import binding_message, session_id_of
from ledger.values import Head, Input, MemberEntry, Membership, Mix, Receipt, Record, RecordedMix, SessionEntry, Step

__all__ = [
    "AccountUnfunded",
    "BrokenChain",
    "CallRefused",
    "Chain",
    "ChainUnreachable",
    "Devnet",
    "DevnetError",
    "DevnetOptions",
    "Head",
    "History",
    "HistoryError",
    "Input",
    "KeystoreError",
    "Ledger",
    "LedgerError",
    "MemberEntry",
    "Membership",
    "Mix",
    "NoContract",
    "NotOurContract",
    "Outbox",
    "OutboxError",
    "OutboxStatus",
    "PayloadError",
    "Receipt",
    "Record",
    "RecordRefused",
    "RecordedMix",
    "SessionEntry",
    "SessionUnknown",
    "Step",
    "WrongChain",
    "WrongPassphrase",
    "binding_message",
    "change_passphrase",
    "connect",
    "create_keystore",
    "deploy",
    "load_keystore",
    "session_id_of",
]
