"""Payloads that later ones build on (codecs with a depth), on this node's disk.

Peers' payloads are kept as long as their newest one needs them; our own lie in the journal. Knows no network.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.daemon.journal import Journal
from node.errors import UpdateError
from node.learning.codecs import Codec, Reference, chain
from node.learning.parameters import ParameterSpec
from node.session.ports import FetchEarlier, Payload, payload_bytes


@dataclass
class EarlierPayloads:
    """Implements `node.session.ports.Earlier`. A file is named by its hash; one that has another is as good as none."""

    journal: Journal
    codec: Codec
    spec: ParameterSpec
    _needed: dict[int, tuple[bytes, ...]] = field(default_factory=dict)  # by member: the newest one and its chain
    _pending: dict[int, list[bytes]] = field(default_factory=dict)  # by member: fetched for one that is not judged yet

    def __post_init__(self) -> None:
        """Begins with none of peers: what is needed is fetched again."""
        self.directory = self.journal.directory / "earlier"
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.codec.depth:
            self.directory.mkdir(mode=0o700)

    def resolve(self, digest: bytes) -> bytes | None:
        """The payload of that hash, a peer's or our own; None if it is not here."""
        for path in (self.directory / digest.hex(), self.journal.payload_path(digest)):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            if hashlib.sha256(content).digest() == digest:
                return content
            path.unlink(missing_ok=True)
        return None

    def announced(self, round: int) -> bytes | None:
        """The hash of our newest payload of a round before this one."""
        if not self.codec.depth:
            return None
        newest = self.journal.newest_update(round)
        return None if newest is None else newest[2]

    async def complete(self, member: int, payload: Payload, fetch: FetchEarlier) -> bool:
        """Fetches what a payload builds on and is not here, newest first; False if some of it is not to be had.

        What comes is kept until the payload is settled.
        """
        newer: Payload = payload
        for _ in range(self.codec.depth):
            reference = await trio.to_thread.run_sync(self._reference, newer)
            if reference is None:
                break
            content = await trio.to_thread.run_sync(self.resolve, reference.digest)
            if content is None:
                older = await fetch(reference.digest, reference.size)
                if older is None:
                    return False
                content = await trio.to_thread.run_sync(self._save, member, older)
            newer = content
        return True

    def _reference(self, payload: Payload) -> Reference | None:
        """What a payload directly builds on; None for one that is none of the codec, too."""
        try:
            return self.codec.reference(self.spec, payload_bytes(payload))
        except UpdateError:
            return None

    def _save(self, member: int, payload: Payload) -> bytes:
        """Moves what was fetched here; its bytes."""
        content = payload_bytes(payload)
        digest = hashlib.sha256(content).digest()
        self._pending.setdefault(member, []).append(digest)
        (self.directory / digest.hex()).write_bytes(content)
        if isinstance(payload, Path):
            payload.unlink(missing_ok=True)
        return content

    async def settle(self, member: int, payload: Payload | None) -> None:
        """Keeps a member's payload and what it builds on, instead of the one before; None: forgets what was fetched."""
        if self.codec.depth:
            await trio.to_thread.run_sync(self._settle, member, payload)

    def _settle(self, member: int, payload: Payload | None) -> None:
        before = {*self._pending.pop(member, []), *(self._needed.get(member, ()) if payload is not None else ())}
        if payload is not None:
            needed = self._chain(payload)
            content = payload_bytes(payload)
            digest = hashlib.sha256(content).digest()
            (self.directory / digest.hex()).write_bytes(content)
            self._needed[member] = (digest, *needed)
        kept = {digest for digests in (*self._needed.values(), *self._pending.values()) for digest in digests}
        for digest in before - kept:
            (self.directory / digest.hex()).unlink(missing_ok=True)

    async def builds_on(self, payload: Payload) -> Sequence[bytes]:
        """The payloads that a payload of ours builds on, newest first; none where one of them is lost."""
        return await trio.to_thread.run_sync(self._builds_on, payload) if self.codec.depth else ()

    def _builds_on(self, payload: Payload) -> Sequence[bytes]:
        try:
            found = [self.resolve(digest) for digest in self._chain(payload)]
        except UpdateError:
            return ()
        return [content for content in found if content is not None]

    def _chain(self, payload: Payload) -> tuple[bytes, ...]:
        references = chain(self.codec, self.spec, payload_bytes(payload), self.resolve)
        return tuple(reference.digest for reference in references)
