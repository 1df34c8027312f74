"""IPFS for the node: directories of files as content with CIDs. Carries bytes, knows no tensors, ledger or libp2p."""

from node.storage.blocks import BlockStore
from node.storage.cid import digest_of, directory_cid
from node.storage.embedded import EmbeddedSnapshots
from node.storage.kubo import KuboSnapshots
from node.storage.opening import open_snapshots
from node.storage.ports import Bounds, Collected, Entry, FetchBlocks, Label, Pin, Snapshots

__all__ = [
    "BlockStore",
    "Bounds",
    "Collected",
    "EmbeddedSnapshots",
    "Entry",
    "FetchBlocks",
    "KuboSnapshots",
    "Label",
    "Pin",
    "Snapshots",
    "digest_of",
    "directory_cid",
    "open_snapshots",
]
