"""The key of a sealed session on its way from member to member."""

import os

import pytest

from node.errors import PeerError, StorageError
from node.network.identity import public_key_of
from node.storage import grant_key, open_grant
from tests.network.members import identity, member

pytestmark = pytest.mark.real
SESSION = 7


async def test_a_member_grants_the_key_to_another_and_to_nobody_else():
    key, alices, bobs = os.urandom(32), identity("alice"), identity("bob")
    asked = []

    def grant(peer_id):
        asked.append(peer_id)
        return grant_key(key, SESSION, public_key_of(peer_id), alices.private_key)

    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        with pytest.raises(PeerError, match="the session's key is not here"):
            await bob.ask_grant(alice.peer_id)
        alice.give_grants(grant)
        given = await bob.ask_grant(alice.peer_id)
        assert asked == [bob.peer_id]
    assert open_grant(given, SESSION, alices.public_key, bobs.private_key) == key
    with pytest.raises(StorageError):
        open_grant(given, SESSION, alices.public_key, identity("carol").private_key)


async def test_a_stranger_is_granted_nothing():
    async with (
        member("alice", gate={identity("alice").peer_id}.__contains__) as alice,
        member("bob", alice.addresses()) as bob,
    ):
        alice.give_grants(lambda peer_id: pytest.fail(f"granted to {peer_id}"))
        with pytest.raises(PeerError):
            await bob.ask_grant(alice.peer_id)
