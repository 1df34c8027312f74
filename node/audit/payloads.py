"""What a mixing step is replayed from: files of the snapshots on record, read once, and decoded.

Memory is bounded: of the step before only what the next one uses as well is kept.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from ledger import History
from node.audit.replay import Fault, Update, open_update
from node.audit.report import AuditReport
from node.audit.snapshots import SnapshotShelf
from node.errors import ContentMalformed, UpdateError
from node.learning.codecs import Codec
from node.learning.parameters import ParameterSpec
from node.session.gossip import earlier_name
from node.storage import directory_cid

MIXED, UPDATE = "mixed.safetensors", "update"


@dataclass
class Payloads:
    """The files that members recorded, and the updates of one step. `form` says how a member's update is encoded."""

    history: History
    shelf: SnapshotShelf
    report: AuditReport
    form: Callable[[int, int], Codec]  # (member, round)
    _updates: dict[tuple[int, int], Update] = field(default_factory=dict)

    async def read(self, member: int, round: int, name: str, limit: int | None = None) -> bytes | None:
        """A file of the snapshot that a member recorded of a round, None where there is none."""
        digest = self.history.snapshot(member, round)
        if digest is None:
            return None
        cid = directory_cid(digest)
        try:
            content = await self.shelf.read(cid, name, limit)
        except ContentMalformed as error:
            expected = f"a file {name} of at most {limit or self.shelf.limit:,} bytes in {cid}"
            self.report.blame(Fault(member, round, "snapshot", expected, str(error)))
            return None
        self.report.bytes_read += len(content or b"")
        return content

    async def updates(self, wanted: Sequence[tuple[int, int]], spec: ParameterSpec) -> Mapping[tuple[int, int], Update]:
        """The updates (member, round) that a step uses, up to the first one that is not to be had."""
        self._updates = {key: self._updates[key] for key in wanted if key in self._updates}
        for member, round in wanted:
            if (member, round) not in self._updates:
                update = await self._update(member, round, spec)
                if update is None:
                    break
                self._updates[member, round] = update
        return self._updates

    async def _update(self, member: int, round: int, spec: ParameterSpec) -> Update | None:
        content = await self.read(member, round, UPDATE)
        if content is None:
            return None
        form = self.form(member, round)
        earlier = await self._earlier(member, round, spec, content)
        if earlier is None:
            return None
        return await trio.to_thread.run_sync(open_update, content, spec, form, earlier)

    async def _earlier(self, member: int, round: int, spec: ParameterSpec, update: bytes) -> list[bytes] | None:
        """The payloads that an update builds on, from the same snapshot; None if one is not to be had."""
        form, found, payload = self.form(member, round), list[bytes](), update
        while len(found) < form.depth:
            try:
                reference = form.reference(spec, payload)
            except UpdateError:
                break  # decoding tells what is wrong
            if reference is None:
                break
            content = await self.read(member, round, earlier_name(len(found) + 1))
            if content is None:
                return None
            if hashlib.sha256(content).digest() != reference.digest:
                break  # as above
            found.append(content)
            payload = content
        return found
