"""Stop-gap."""
from ledger.chain import Chain, connect
from ledger.client import Ledger, deploy
from ledger.devnet import Devnet, DevnetOptions
from ledger.errors import LedgerError, SessionUnknown
from ledger.keys import create_keystore, load_keystore
from ledger.outbox import Outbox
from ledger.payload import binding_message, session_id_of
from ledger.values import Input, MemberEntry, Membership, Mix, Record, SessionEntry
