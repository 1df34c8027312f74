"""Evidence of equivocation, verified offline: two signed words of one member on one round that differ."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ledger import PayloadError, binding_message
from ledger.testimony import words_of
from node.errors import ConfigError
from node.messages import Announcement
from node.network.identity import verify

LIMIT = 64 * 1024
MOST_FILES = 10_000  # of a home that are looked at


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the file convicts the peer, and why not if it does not."""

    convicts: bool
    peer_id: str
    session: str
    round: int
    reason: str

    def json(self) -> Mapping[str, Any]:
        """The verdict for programs."""
        return {
            "convicts": self.convicts,
            "peer_id": self.peer_id,
            "session": self.session,
            "round": self.round,
            "reason": self.reason,
        }


def judge_evidence(path: Path) -> Verdict:
    """What the evidence in a file proves. ConfigError if the file holds no evidence at all."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ConfigError(f"{path} is longer than {LIMIT} bytes: it is no evidence")
        told = orjson.loads(content)
        if "record" in told:
            return _against_record(_announcement(told["announcement"]), told["record"])
        first, second = (_announcement(entry) for entry in told["announcements"])
    except OSError as error:
        raise ConfigError(f"the evidence {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError, PayloadError) as error:
        raise ConfigError(
            f"{path} holds no two signed announcements, nor one and a record ({error!r}): is it the right file?"
        ) from error
    return _verdict(first, _flaw(first, second), "two signed updates")


def convicted_in(session_id: int, homes: Iterable[Path]) -> Iterator[Verdict]:
    """The verdicts that convict in this session, of files that the homes keep; what proves nothing is passed over."""
    for home in homes:
        for path in sorted((home / "evidence").glob("*.json"))[:MOST_FILES]:
            try:
                verdict = judge_evidence(path) if path.is_file() else None
            except ConfigError:
                continue
            if verdict is not None and verdict.convicts and verdict.session == f"{session_id:016x}":
                yield verdict


def _verdict(first: Announcement, flaw: str, proof: str) -> Verdict:
    return Verdict(not flaw, first.peer_id, f"{first.session_id:016x}", first.round, flaw or proof)


def _against_record(announced: Announcement, record: Mapping[str, Any]) -> Verdict:
    """Whether the peer announced another update than the one that its account signed a record of."""
    words = words_of(bytes.fromhex(record["transaction"]))
    binding = bytes.fromhex(record["binding"])
    recorded = words.hashes.get((announced.session_id, announced.round))
    chain_id = int(record["chain_id"]) if words.chain_id is None else words.chain_id
    message = binding_message(chain_id, words.contract, announced.session_id, words.account)
    flaw = ""
    if not verify(announced.peer_id, announced.signed_bytes(), announced.signature):
        flaw = "the signature of the announcement is not the peer's"
    elif recorded is None:
        flaw = f"the transaction records no update of round {announced.round} in that session"
    elif recorded == announced.digest:
        flaw = "announcement and record name the same update"
    elif not verify(announced.peer_id, message, binding):
        flaw = f"the peer did not bind the account {words.account}, which signed the record"
    return _verdict(announced, flaw, "it announced one update and recorded another")


def _flaw(first: Announcement, second: Announcement) -> str:
    """Why the two announcements convict nobody; empty if they do."""
    if first.peer_id != second.peer_id:
        return f"they are of two peers, {first.peer_id} and {second.peer_id}"
    if (first.session_id, first.round) != (second.session_id, second.round):
        return f"they are of rounds {first.round} and {second.round}, or of two sessions"
    if first.digest == second.digest:
        return "both name the same update"
    for number, each in enumerate((first, second), 1):
        if not verify(each.peer_id, each.signed_bytes(), each.signature):
            return f"the signature of announcement {number} is not the peer's"
    return ""


def _announcement(entry: Mapping[str, Any]) -> Announcement:
    digest, signature = bytes.fromhex(entry["sha256"]), bytes.fromhex(entry["signature"])
    note = bytes.fromhex(entry.get("note", ""))
    if len(digest) != 32 or len(signature) != 64:
        raise ValueError("a hash has 32 bytes, a signature 64")
    session, round, size = int(entry["session"], 16), int(entry["round"]), int(entry["size"])
    found = Announcement(session, round, digest, size, str(entry["codec"]), str(entry["peer_id"]), signature, note)
    found.signed_bytes()  # numbers that do not fit raise OverflowError
    return found
