"""Sealed files and granted keys: only members read them, and nobody alters them unnoticed."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from node.errors import StorageError
from node.storage import Label, SealedSnapshots, grant_key, new_session_key, open_grant, open_snapshots
from node.storage.sealing import PART, content_size, seal, seal_bytes, sealed_size, unseal, unseal_bytes

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
CREATOR, MEMBER, STRANGER = (bytes([number]) * 32 for number in (1, 2, 3))
SIZES = (0, 1, PART - 1, PART, PART + 1, 3 * PART)
FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 1200}


def public(seed):
    return bytes(SigningKey(seed).verify_key)


@pytest.mark.parametrize("size", SIZES)
def test_a_sealed_file_opens_to_its_content(size):
    content = bytes(index % 251 for index in range(size))
    sealed = seal_bytes(content, KEY)
    assert unseal_bytes(sealed, KEY) == content
    assert (len(sealed), content_size(len(sealed))) == (sealed_size(size), size)
    assert size == 0 or content[:100] not in sealed


def test_the_same_content_is_the_same_sealed_file_only_under_the_same_key():
    assert seal_bytes(b"x" * 100, KEY) == seal_bytes(b"x" * 100, KEY) != seal_bytes(b"x" * 100, OTHER_KEY)
    assert seal_bytes(b"x" * 100, KEY)[48:] != seal_bytes(b"y" * 100, KEY)[48:]


def test_another_key_opens_nothing():
    with pytest.raises(StorageError, match="altered or cut off, or the session key is another's"):
        unseal_bytes(seal_bytes(b"secret", KEY), OTHER_KEY)


@settings(max_examples=40)
@given(position=st.integers(0, sealed_size(2 * PART + 9) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(position, bit):
    sealed = bytearray(seal_bytes(b"z" * (2 * PART + 9), KEY))
    sealed[position] ^= 1 << bit
    with pytest.raises(StorageError):
        unseal_bytes(bytes(sealed), KEY)


@pytest.mark.parametrize("length", [0, 15, 47, 48, 60, 48 + PART + 16, 48 + 2 * (PART + 16), 48 + PART + 17])
def test_a_file_that_is_cut_off_is_noticed_also_between_parts(length):
    with pytest.raises(StorageError):
        unseal_bytes(seal_bytes(b"z" * (2 * PART + 9), KEY)[:length], KEY)


def test_parts_that_change_places_or_are_appended_are_noticed():
    sealed = seal_bytes(b"z" * (2 * PART), KEY)
    head, first, second = sealed[:48], sealed[48 : 48 + PART + 16], sealed[48 + PART + 16 :]
    for forged in (head + second + first, head + first + first, sealed + second, head + second):
        with pytest.raises(StorageError):
            unseal_bytes(forged, KEY)


def test_sealing_and_opening_hold_one_part_at_a_time():
    content = b"a" * (5 * PART)
    assert max(map(len, seal(io.BytesIO(content), KEY))) == PART + 16
    assert max(map(len, unseal(io.BytesIO(seal_bytes(content, KEY)), KEY))) == PART


@pytest.mark.parametrize("size", [0, 47, 48, 63, 48 + PART + 17])
def test_a_size_that_no_sealed_file_has_is_refused(size):
    with pytest.raises(StorageError, match="not sealed"):
        content_size(size)


def test_a_member_opens_the_key_that_the_creator_granted():
    key = new_session_key()
    grant = grant_key(key, 7, public(MEMBER), CREATOR)
    assert open_grant(grant, 7, public(CREATOR), MEMBER) == key
    assert key not in grant


@pytest.mark.parametrize(
    ("session", "creator", "seed"), [(8, CREATOR, MEMBER), (7, STRANGER, MEMBER), (7, CREATOR, STRANGER)]
)
def test_a_grant_is_for_one_member_of_one_session_from_one_creator(session, creator, seed):
    grant = grant_key(KEY, 7, public(MEMBER), CREATOR)
    with pytest.raises(StorageError, match="ask the creator"):
        open_grant(grant, session, public(creator), seed)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_grant(grant):
    with pytest.raises(StorageError, match="ask the creator"):
        open_grant(grant, 7, public(CREATOR), MEMBER)


@pytest.mark.parametrize("member", [b"", bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_a_key_that_is_no_point_of_the_curve_is_granted_nothing(member):
    with pytest.raises(StorageError, match="no Ed25519 key"):
        grant_key(KEY, 7, member, CREATOR)


async def test_a_sealed_snapshot_is_readable_with_the_key_and_kept_without(tmp_path):
    (tmp_path / "mixed").write_bytes(FILES["mixed.safetensors"])
    async with open_snapshots(tmp_path / "alice") as store:
        sealed = SealedSnapshots(store, KEY, tmp_path / "alice")
        cid = await sealed.add({"update": b"payload", "mixed.safetensors": tmp_path / "mixed"}, Label(1, 2, 3))
        assert cid == await sealed.add(FILES)
        assert await sealed.read(cid, "update", 7) == b"payload"
        assert await sealed.fetch_to(cid, "mixed.safetensors", tmp_path / "out", 1 << 20) == 307_200
        assert (tmp_path / "out").read_bytes() == FILES["mixed.safetensors"]
        assert [entry.size for entry in await sealed.entries(cid)] == [307_200, 7]
        assert b"payload" not in await store.read(cid, "update", 1000)
        with pytest.raises(StorageError, match="session key is another's"):
            await SealedSnapshots(store, OTHER_KEY, tmp_path / "alice").fetch_to(cid, "update", tmp_path / "no", 100)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["alice", "mixed", "out"]
        await store.pin(cid)
        assert [pin.label for pin in await sealed.pins()] == [Label(1, 2, 3)]


async def test_a_snapshot_that_is_not_sealed_is_said_to_be_so(tmp_path):
    async with open_snapshots(tmp_path / "alice") as store:
        cid = await store.add(FILES)
        with pytest.raises(StorageError, match="read it without a session key"):
            await SealedSnapshots(store, KEY, tmp_path / "alice").read(cid, "update", 100)
