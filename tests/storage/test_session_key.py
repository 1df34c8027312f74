"""The key of a sealed session as a file."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import StorageError
from node.storage.session_key import format_key, key_hash, parse_key, read_key

KEY = bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_comes_back_from_its_file(key):
    assert parse_key(format_key(key), key_hash(key), "file") == key


def test_the_hash_is_what_the_protocol_says():
    assert key_hash(KEY) == hashlib.sha256(b"fl-node/session-key/1" + KEY).hexdigest()


def test_another_sessions_key_is_refused():
    with pytest.raises(StorageError, match="not this session's"):
        parse_key(format_key(KEY), key_hash(bytes(32)), "alice.key")


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"zz" * 32, KEY, b"00" * 32 + b"x", b"\n" * 5000, b"\xff" * 64])
def test_what_is_no_key_is_refused(content):
    with pytest.raises(StorageError, match=r"alice\.key holds no session key"):
        parse_key(content, None, "alice.key")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"no\.key cannot be read"):
        read_key(tmp_path / "no.key")
