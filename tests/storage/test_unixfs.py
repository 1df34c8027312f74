"""The importer: byte for byte what Kubo makes, checked against known CIDs and against an independent implementation."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import StorageError
from node.storage import unixfs
from node.storage.cid import format_cid
from node.storage.unixfs import CHUNK, WIDTH, import_directory, import_file, import_path
from node.storage.walker import directory_links, read_file

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17, WIDTH * CHUNK, WIDTH * CHUNK + 1)


def file_cid(content):
    return format_cid(import_file(io.BytesIO(content), lambda cid, block: None).cid)


def pseudo_random(size):
    return random.Random(size).randbytes(size % CHUNK) + random.Random(1).randbytes(CHUNK) * (size // CHUNK)


@pytest.mark.parametrize(
    ("content", "cid"),
    [  # printed by `ipfs add --cid-version=1 --raw-leaves`
        (b"", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (b"hello world\n", "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
    ],
)
def test_a_small_file_has_its_known_cid(content, cid):
    assert file_cid(content) == cid


def test_an_empty_directory_has_its_known_cid(tmp_path):
    root = import_path(tmp_path, lambda cid, block: None)
    assert format_cid(root.cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


@pytest.mark.real
@pytest.mark.parametrize("size", SIZES)
def test_a_file_has_the_cid_that_an_independent_importer_computes(size):
    aleph_cid = pytest.importorskip("aleph_cid", reason="pip install aleph-cid==0.1.0 for an independent importer")
    content = pseudo_random(size)
    hasher = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    hasher.update(content)
    assert file_cid(content) == hasher.finalize()


def test_a_directory_has_the_cid_that_an_independent_importer_computes(tmp_path):
    aleph_cid = pytest.importorskip("aleph_cid", reason="pip install aleph-cid==0.1.0 for an independent importer")
    files = {"update": b"u", "mixed.safetensors": pseudo_random(CHUNK + 5), "B": b"", "a.b-c_d": b"\0"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = aleph_cid.hash_folder(str(tmp_path), cid_version=1)
    assert format_cid(import_directory(files, lambda cid, block: None).cid) == expected
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "z").write_bytes(b"deeper")
    nested = import_path(tmp_path, lambda cid, block: None)
    assert format_cid(nested.cid) == aleph_cid.hash_folder(str(tmp_path), cid_version=1)


@given(content=st.binary(max_size=3000), chunk=st.integers(1, 7), width=st.integers(2, 5))
def test_whatever_was_imported_is_read_back(content, chunk, width):
    blocks = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unixfs, "CHUNK", chunk)
        patch.setattr(unixfs, "WIDTH", width)
        root = import_file(io.BytesIO(content), blocks.__setitem__)
    assert root.size == len(content)
    assert b"".join(read_file(root.cid, blocks.get, 1 << 24)) == content


@pytest.mark.real
def test_a_lone_chunk_after_full_nodes_hangs_at_the_right_depth(monkeypatch):
    monkeypatch.setattr(unixfs, "CHUNK", 1)
    blocks = {}
    root = import_file(io.BytesIO(bytes(range(256)) * 119), blocks.__setitem__)  # 30,464: above 174², three levels
    assert len(blocks) < 256 + 2 * WIDTH
    assert b"".join(read_file(root.cid, blocks.get, 1 << 30)) == bytes(range(256)) * 119


def test_blocks_come_children_first_and_the_root_last():
    order = []
    root = import_file(io.BytesIO(pseudo_random(2 * CHUNK)), lambda cid, block: order.append(cid))
    assert order[-1] == root.cid
    assert len(order) == 3


def test_files_of_a_directory_are_ordered_by_the_bytes_of_their_names():
    blocks = {}
    root = import_directory({"b": b"", "a": b"", "B": b"", "_": b""}, blocks.__setitem__)
    assert [link.name for link in directory_links(root.cid, blocks.get)] == ["B", "_", "a", "b"]


def test_a_directory_that_kubo_would_shard_is_refused():
    with pytest.raises(StorageError, match="add fewer files"):
        import_directory({f"{number:0120}": b"" for number in range(1500)}, lambda cid, block: None)


def test_links_and_devices_are_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match="not a regular file"):
            import_path(path, lambda cid, block: None)
