import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p import create_identity_from_seed
from libp2p.peer.id import ID

from node.errors import IdentityError
from node.network.identity import create_identity, identity_from_seed, load_identity, peer_id_of, public_key_of, verify


def test_a_created_identity_is_loaded_again(tmp_path):
    created = create_identity(tmp_path / "key")
    assert load_identity(tmp_path / "key") == created
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_the_file_is_that_of_the_libp2p_specification(tmp_path):
    """The test vector of https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md."""
    public = "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    vector = "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d" + public
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(bytes.fromhex(vector))
    assert load_identity(path).public_key.hex() == public


def test_libp2p_sees_the_same_peer_and_signature():
    identity = identity_from_seed(b"a" * 32)
    keys = create_identity_from_seed(b"a" * 32)
    assert str(ID.from_pubkey(keys.public_key)) == identity.peer_id
    assert keys.public_key.verify(b"message", identity.sign(b"message"))


def test_an_existing_identity_is_never_replaced(tmp_path):
    created = create_identity(tmp_path / "key")
    with pytest.raises(IdentityError, match="exists already"):
        create_identity(tmp_path / "key")
    assert load_identity(tmp_path / "key") == created


def test_a_directory_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(IdentityError, match="cannot write the identity"):
        create_identity(tmp_path / "missing" / "key")
    with pytest.raises(IdentityError, match="fl-node init"):
        load_identity(tmp_path / "missing" / "key")


def test_a_key_that_others_can_read_is_refused(tmp_path):
    create_identity(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_identity(tmp_path / "key")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b[1:], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_key_is_refused(tmp_path, damage):
    path = tmp_path / "key"
    create_identity(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IdentityError, match="restore it"):
        load_identity(path)


def test_the_representation_hides_the_private_key():
    identity = identity_from_seed(b"s" * 32)
    assert "private" not in repr(identity)
    assert repr(b"s" * 32) not in repr(identity)


def test_only_the_signer_s_signature_over_the_same_message_is_valid():
    alice, bob = identity_from_seed(b"a" * 32), identity_from_seed(b"b" * 32)
    signature = alice.sign(b"message")
    assert verify(alice.peer_id, b"message", signature)
    assert not verify(alice.peer_id, b"massage", signature)
    assert not verify(bob.peer_id, b"message", signature)


@given(st.text(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_nothing_malformed_is_valid_or_raises(peer_id, message, signature):
    assert not verify(peer_id, message, signature)


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_contains_its_key(public_key):
    assert public_key_of(peer_id_of(public_key)) == public_key


@given(st.text(max_size=100))
def test_what_is_no_peer_id_is_refused(text):
    with pytest.raises(IdentityError, match="no Ed25519 peer id"):
        public_key_of(text)
