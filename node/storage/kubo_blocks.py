"""Blocks of the user's Kubo daemon beside those of the embedded store, for members that only this node reaches."""

import logging

from node.errors import ContentMissing, StorageError
from node.storage.blocks import BlockStore
from node.storage.cid import cid_from_bytes, format_cid, is_block_of
from node.storage.dagpb import MAX_BLOCK
from node.storage.kubo_rpc import KuboRpc

log = logging.getLogger(__name__)
SECONDS = 5.0  # for one block


class KuboBlocks:
    """Looks in the embedded store first, then asks the daemon for what it has itself. Synchronous."""

    def __init__(self, embedded: BlockStore, url: str) -> None:
        self._embedded = embedded
        self._rpc = KuboRpc(url, SECONDS)

    def get(self, cid: bytes) -> bytes | None:
        """The block, verified; None if it is in neither, or the daemon does not answer."""
        block = self._embedded.get(cid)
        if block is not None:
            return block
        try:
            block = self._rpc.own_block(format_cid(cid_from_bytes(cid)), MAX_BLOCK)
        except ContentMissing:
            return None
        except StorageError as error:
            log.info("a peer's question for a block is answered with no: %s", error)
            return None
        return block if is_block_of(cid, block) else None
