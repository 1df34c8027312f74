"""A member's earlier payloads, for codecs that build on them: as many as the newest one needs, and no more."""

import hashlib
from dataclasses import dataclass, field

from node.learning.codecs import Codec, chain
from node.learning.parameters import ParameterSpec


@dataclass
class Held:
    """The newest payload of one member and what it builds on, by their SHA-256."""

    newest: bytes | None = None
    payloads: dict[bytes, bytes] = field(default_factory=dict)

    def resolve(self, digest: bytes) -> bytes | None:
        """The payload of that hash, None if it is not needed any more or never was here."""
        return self.payloads.get(digest)

    def keep(self, codec: Codec, spec: ParameterSpec, payload: bytes) -> None:
        """Makes a payload the newest one. Raises UpdateError as `chain` does."""
        if not codec.depth:
            return
        needed = [reference.digest for reference in chain(codec, spec, payload, self.resolve)]
        self.newest = hashlib.sha256(payload).digest()
        self.payloads = {digest: self.payloads[digest] for digest in needed} | {self.newest: payload}
