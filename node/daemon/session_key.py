"""How a node comes by the key of a sealed session: from its home, a file, or a member who has it; and passes it on."""

import logging
from collections.abc import Callable

import trio

from node.daemon.prepare import Prepared
from node.daemon.settings import StartSettings
from node.errors import PeerError, StorageError
from node.files import write_atomically
from node.network.identity import Identity, public_key_of
from node.network.service import Network
from node.storage import format_key, grant_key, key_hash, open_grant, read_key

log = logging.getLogger(__name__)
RETRY_S = 1.0


async def obtain_key(
    settings: StartSettings, prepared: Prepared, network: Network, tell: Callable[[str], None]
) -> bytes | None:
    """The session's key, which is in the home afterwards; None if the session is not sealed.

    Every member who asks is granted it from then on. Raises StorageError if nobody gives it in time.
    """
    sealed = prepared.opened.session.sealed
    if sealed is None:
        return None
    session_id = prepared.opened.session_id
    path = settings.home.session_key(session_id)
    given = settings.session_key or (path if path.is_file() else None)
    if given is not None:
        key = read_key(given, sealed.key_hash)
    else:
        tell("the session is sealed: waiting for a member who gives its key")
        key = await _ask_members(settings, prepared, network, sealed.key_hash)
        tell("a member gave the session's key")
    if not path.is_file():
        write_atomically(path, format_key(key))
    network.give_grants(granting(key, session_id, prepared.identity))
    return key


def granting(key: bytes, session_id: int, identity: Identity) -> Callable[[str], bytes]:
    """Makes grants of a key for peer ids, signed by this node."""

    def grant(peer_id: str) -> bytes:
        return grant_key(key, session_id, public_key_of(peer_id), identity.private_key)

    return grant


async def _ask_members(settings: StartSettings, prepared: Prepared, network: Network, expected: str) -> bytes:
    """From whom does not matter: the session file says whether it is the key."""
    with trio.move_on_after(settings.quorum_s):
        while True:
            for peer_id in sorted(network.connected()):
                try:
                    grant = await network.ask_grant(peer_id)
                    key = open_grant(
                        grant, prepared.opened.session_id, public_key_of(peer_id), prepared.identity.private_key
                    )
                except (PeerError, StorageError) as error:
                    log.info("%s", error)
                    continue
                if key_hash(key) == expected:
                    return key
                log.warning("peer %s gave a key that is not the session's", peer_id)
            await trio.sleep(RETRY_S)
    raise StorageError(
        f"no member gave the key of the sealed session within {settings.quorum_s:g} s: start while another member that "
        "has it is connected, or pass --session-key FILE (the creator has it in its home)"
    )
