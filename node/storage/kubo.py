"""Snapshots in the user's own Kubo daemon. Knows the daemon's commands only through `kubo_rpc`, and no peers.

The daemon holds other things of the user too: only what this node pinned is listed or released (the list of pins is on
our disk), and `gc` runs only when it is asked for. What the daemon says is checked: the CID of an add is computed here
as well, a directory block is verified by its hash, a file by importing it again, which holds for whatever was added as
docs/protocol.md, section 8, says.
"""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from node.errors import StorageError
from node.files import sync_directory
from node.storage.blocks import write_durably, writing_to
from node.storage.catalogue import Catalogue, new_pin
from node.storage.cid import RAW, codec_of, format_cid, is_block_of, parse_cid
from node.storage.dagpb import MAX_BLOCK, Link, encode_node
from node.storage.deadlines import check_deadline, deadline, in_thread
from node.storage.kubo_rpc import KuboRpc
from node.storage.names import check_files
from node.storage.ports import Bounds, Collected, Entry, Label, Pin
from node.storage.staging import staged
from node.storage.unixfs import Imported, import_directory, import_file, open_regular
from node.storage.walker import MAX_DEPTH, directory_links, entry, file_size, links_of, most_blocks


class KuboSnapshots:
    """`Snapshots` in a Kubo daemon, with the list of our pins in the home."""

    def __init__(self, home: Path, rpc: KuboRpc, bounds: Bounds) -> None:
        root = home / "kubo"
        with writing_to(root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._home = home
        self._rpc = rpc
        self._bounds = bounds
        self._catalogue = Catalogue(root / "pins.sqlite")

    async def add(self, files: Mapping[str, bytes | Path], label: Label | None = None) -> str:
        """See `Snapshots.add`."""
        check_files(files)
        with deadline(self._bounds.seconds, f"adding {', '.join(files)[:80]} to Kubo"):
            return await in_thread(lambda: self._add(files, label), abandon=True)

    async def entries(self, cid: str) -> list[Entry]:
        """See `Snapshots.entries`."""
        with deadline(self._bounds.seconds, f"listing {cid}"):
            return await in_thread(lambda: self._entries(cid), abandon=True)

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """See `Snapshots.read`."""
        with deadline(self._bounds.seconds, f"reading {cid}/{name}"):
            return await in_thread(lambda: self._read(cid, name, limit), abandon=True)

    async def fetch_to(self, cid: str, name: str, path: Path, limit: int) -> int:
        """See `Snapshots.fetch_to`."""
        with deadline(self._bounds.seconds, f"fetching {cid}/{name}"):
            return await in_thread(lambda: self._fetch_to(cid, name, path, limit), abandon=True)

    async def pin(self, cid: str, label: Label | None = None) -> None:
        """See `Snapshots.pin`."""
        root = parse_cid(cid)
        with deadline(self._bounds.seconds, f"pinning {cid}"):
            await in_thread(lambda: self._rpc.pin(format_cid(root)), abandon=True)
            links = await in_thread(lambda: directory_links(root, self._block), abandon=True)
            pin = new_pin(format_cid(root), label, sum(link.size for link in links) + len(encode_node(links, b"")))
            await in_thread(lambda: self._catalogue.record(pin, ()))

    async def unpin(self, cid: str) -> None:
        """See `Snapshots.unpin`."""
        text = format_cid(parse_cid(cid))
        with deadline(self._bounds.seconds, f"unpinning {cid}"):
            if all(pin.cid != text for pin in await in_thread(self._catalogue.pins)):
                raise StorageError(f"{cid} was not pinned by this node: use `ipfs pin rm` for the daemon's other pins")
            await in_thread(lambda: self._rpc.unpin(text), abandon=True)
            await in_thread(lambda: self._catalogue.forget(text))

    async def pins(self) -> list[Pin]:
        """See `Snapshots.pins`. What the user unpinned with Kubo's own command is not in it."""
        lost = await self.damaged()
        return [pin for pin in await in_thread(self._catalogue.pins) if pin not in lost]

    async def block_cids(self, cid: str) -> list[bytes]:
        """See `Snapshots.block_cids`. All of them; the daemon is asked for those with links, and asks nobody."""
        with deadline(self._bounds.seconds, f"listing the blocks of {cid}"):
            return await in_thread(lambda: self._blocks_of(parse_cid(cid)))

    async def damaged(self) -> list[Pin]:
        """See `Snapshots.damaged`. What the user unpinned with Kubo's own command; blocks: `ipfs repo verify`."""
        with deadline(self._bounds.seconds, "listing the pins"):
            held = {parse_cid(cid) for cid in await in_thread(self._pinned, abandon=True)}
            return [pin for pin in await in_thread(self._catalogue.pins) if parse_cid(pin.cid) not in held]

    async def gc(self, force: bool = False) -> Collected:  # noqa: ARG002 - the daemon knows its own pins
        """See `Snapshots.gc`. The daemon removes all that nothing in it pins, whoever added it."""
        with deadline(self._bounds.seconds, "collecting garbage in Kubo"):
            before = await in_thread(self._rpc.size, abandon=True)
            blocks = await in_thread(self._rpc.collect, abandon=True)
            after = await in_thread(self._rpc.size, abandon=True)
            return Collected(blocks, max(0, before - after))

    async def size(self) -> int:
        """See `Snapshots.size`. Of the daemon's whole repository."""
        with deadline(self._bounds.seconds, "measuring Kubo's repository"):
            return await in_thread(self._rpc.size, abandon=True)

    async def connect(self, address: str) -> None:
        """Connects the daemon to a peer's multiaddr, so that it can fetch from that peer."""
        with deadline(self._bounds.seconds, f"connecting Kubo to {address}"):
            await in_thread(lambda: self._rpc.connect(address), abandon=True)

    async def addresses(self) -> list[str]:
        """Multiaddrs at which peers can fetch from the daemon."""
        with deadline(self._bounds.seconds, "asking Kubo for its addresses"):
            return await in_thread(self._rpc.addresses, abandon=True)

    def _add(self, files: Mapping[str, bytes | Path], label: Label | None) -> str:
        """Also what the daemon pins after the caller's time is over is in our list, and so can be released."""
        with staged(self._home) as staging:
            directory = staging / "snapshot"
            directory.mkdir()
            copies = {name: _stage(content, directory / name) for name, content in files.items()}
            expected = import_directory(copies, _discard)
            told = self._rpc.add_directory(directory)
        if parse_cid(told) != expected.cid:
            cure = "update Kubo, or leave --ipfs out to use the embedded store"
            raise StorageError(f"Kubo computed {told} where {format_cid(expected.cid)} was due: {cure}")
        pin = new_pin(format_cid(expected.cid), label, expected.dag_size)
        self._catalogue.record(pin, ())
        return pin.cid

    def _read(self, cid: str, name: str, limit: int) -> bytes:
        file = entry(parse_cid(cid), name, self._block).cid
        content = b"".join(self._rpc.cat(format_cid(file), limit))
        _check(file, import_file(io.BytesIO(content), _discard))
        return content

    def _fetch_to(self, cid: str, name: str, path: Path, limit: int) -> int:
        file = entry(parse_cid(cid), name, self._block).cid
        unverified = path.with_name(f"{path.name}.unverified")
        with writing_to(path):
            try:
                written = write_durably(unverified, self._rpc.cat(format_cid(file), limit))
                with open_regular(unverified) as source:
                    _check(file, import_file(source, _discard))
                unverified.replace(path)
            finally:
                unverified.unlink(missing_ok=True)
            sync_directory(path.parent)
        return written

    def _entries(self, cid: str) -> list[Entry]:
        links = sorted(directory_links(parse_cid(cid), self._block), key=lambda link: link.name)
        return [Entry(link.name, format_cid(link.cid), file_size(link.cid, self._block)) for link in links]

    def _block(self, cid: bytes) -> bytes:
        return _verified(cid, self._rpc.block(format_cid(cid), MAX_BLOCK))

    def _blocks_of(self, root: bytes) -> list[bytes]:
        """Root first, level by level."""
        most = most_blocks(self._bounds.snapshot)
        known: dict[bytes, None] = {root: None}
        level = [root]
        for _ in range(MAX_DEPTH):
            below: dict[bytes, None] = {}
            for cid in level:
                check_deadline()
                below.update((link.cid, None) for link in self._links(cid) if link.cid not in known)
                if len(known) + len(below) > most:
                    raise StorageError(f"{format_cid(root)} has more than the {most:,} blocks of a snapshot: refuse it")
            if not below:
                return list(known)
            known.update(below)
            level = list(below)
        raise StorageError(f"{format_cid(root)} is nested deeper than {MAX_DEPTH} levels: refuse it")

    def _links(self, cid: bytes) -> tuple[Link, ...]:
        if codec_of(cid) == RAW:
            return ()
        return links_of(cid, _verified(cid, self._rpc.own_block(format_cid(cid), MAX_BLOCK)))

    def _pinned(self) -> list[str]:
        return [cid for cid in self._rpc.pinned() if _is_ours(cid)]


def _verified(cid: bytes, block: bytes) -> bytes:
    if not is_block_of(cid, block):
        raise StorageError(f"Kubo gave wrong bytes for {format_cid(cid)}: run `ipfs repo verify`")
    return block


def _is_ours(cid: str) -> bool:
    """The daemon's other pins may have codecs and hashes that this node does not read."""
    try:
        parse_cid(cid)
    except StorageError:
        return False
    return True


def _stage(content: bytes | Path, place: Path) -> Path:
    """A copy that nobody changes between our CID and the daemon's; a hard link where the disk allows one."""
    if isinstance(content, bytes):
        place.write_bytes(content)
        return place
    try:
        os.link(content, place)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(content, place)
    return place


def _discard(_cid: bytes, _block: bytes) -> None:
    """Takes blocks of which only the CID is wanted."""


def _check(cid: bytes, imported: Imported) -> None:
    if imported.cid != cid:
        profile = (
            "it was not added as `ipfs add --cid-version=1 --raw-leaves --chunker=size-262144` does, or is corrupt"
        )
        raise StorageError(f"content of {format_cid(cid)} cannot be verified: {profile}")
