"""IPFS for the node: directories of files as content with CIDs. Carries bytes, knows no tensors, ledger or libp2p."""

from node.storage.blocks import BlockStore
from node.storage.cid import canonical_cid, digest_of, directory_cid
from node.storage.copies import Copier, open_copier
from node.storage.embedded import EmbeddedSnapshots
from node.storage.grants import grant_key, open_grant
from node.storage.inventory import Description, Held, Inventory, describe, export, take_inventory
from node.storage.kubo import KuboSnapshots
from node.storage.kubo_blocks import KuboBlocks
from node.storage.opening import open_snapshots
from node.storage.ports import Bounds, Collected, Entry, FetchBlocks, Label, Pin, Snapshots
from node.storage.reading import StoredSnapshots
from node.storage.retention import Retained, Retention, expired, parse_retention, retain
from node.storage.sealed import SealedSnapshots
from node.storage.sealing import is_sealed, new_session_key, sealed_size, unseal_bytes
from node.storage.session_key import format_key, key_hash, parse_key, read_key
from node.storage.staging import clear_staging

__all__ = [
    "BlockStore",
    "Bounds",
    "Collected",
    "Copier",
    "Description",
    "EmbeddedSnapshots",
    "Entry",
    "FetchBlocks",
    "Held",
    "Inventory",
    "KuboBlocks",
    "KuboSnapshots",
    "Label",
    "Pin",
    "Retained",
    "Retention",
    "SealedSnapshots",
    "Snapshots",
    "StoredSnapshots",
    "canonical_cid",
    "clear_staging",
    "describe",
    "digest_of",
    "directory_cid",
    "expired",
    "export",
    "format_key",
    "grant_key",
    "is_sealed",
    "key_hash",
    "new_session_key",
    "open_copier",
    "open_grant",
    "open_snapshots",
    "parse_key",
    "parse_retention",
    "read_key",
    "retain",
    "sealed_size",
    "take_inventory",
    "unseal_bytes",
]
