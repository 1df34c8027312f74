"""What is heard from the network goes to the board; contradictions are kept as evidence."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import trio

from node.files import write_atomically
from node.home import Home
from node.messages import Announcement
from node.network.service import Network
from node.session.board import Board, Equivocation

log = logging.getLogger(__name__)


async def hear_announcements(network: Network, board: Board, home: Home, heard: Callable[[Announcement], None]) -> None:
    """Posts every announcement, and every contradiction that the network found out, for ever; tells `heard` too."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_find_contradictions, network, board, home)
        async for announcement in network.announcements:
            heard(announcement)
            _post(announcement, board, home)


async def _find_contradictions(network: Network, board: Board, home: Home) -> None:
    seen = 0
    while True:
        found = network.equivocations()
        for proof in found[seen:]:
            _post(proof.first, board, home)
            _post(proof.second, board, home)
        seen = len(found)
        await trio.sleep(1.0)


def _post(announcement: Announcement, board: Board, home: Home) -> None:
    proof = board.post(announcement)
    if proof is not None:
        path = save_evidence(home.evidence, proof)
        log.warning(
            "member %d announced two different updates for round %d and is left out from now on; evidence: %s",
            proof.member,
            proof.first.round,
            path,
        )


def save_evidence(directory: Path, proof: Equivocation) -> Path:
    """Writes both signed announcements to a JSON file that anybody can verify offline; returns its path."""
    directory.mkdir(exist_ok=True, mode=0o700)
    path = directory / f"equivocation-{proof.member}-{proof.first.round}.json"
    both = [announcement_json(proof.first), announcement_json(proof.second)]
    write_atomically(path, json.dumps({"kind": "equivocation", "announcements": both}, indent=1).encode())
    return path


def announcement_json(announcement: Announcement) -> dict[str, object]:
    """A signed announcement as JSON: hashes and signatures in hex."""
    return {
        "session": f"{announcement.session_id:016x}",
        "round": announcement.round,
        "sha256": announcement.digest.hex(),
        "size": announcement.size,
        "codec": announcement.codec,
        "peer_id": announcement.peer_id,
        "signature": announcement.signature.hex(),
        "note": announcement.note.hex(),
    }
