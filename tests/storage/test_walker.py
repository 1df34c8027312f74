"""Reading what strangers made: bounded, refused when it is inconsistent, never believed."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ContentMissing, StorageError
from node.storage.cid import DAG_PB, RAW, cid_of_block, make_cid
from node.storage.dagpb import (
    MAX_BLOCK,
    MAX_LINKS,
    Link,
    decode_node,
    decode_unixfs,
    encode_directory,
    encode_file,
    encode_node,
    varint,
)
from node.storage.walker import directory_links, entry, file_size, most_blocks, read_file

LEAF = b"0123456789"
LEAF_CID = cid_of_block(RAW, LEAF)
LINKS = st.builds(
    Link,
    st.binary(min_size=32, max_size=32).map(lambda digest: make_cid(RAW, digest)),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(0, 2**63 - 1),
)


class Blocks(dict):
    """A store of blocks that were made by hand."""

    def node(self, links, data):
        return self.block(encode_node(links, data))

    def block(self, block, codec=DAG_PB):
        cid = cid_of_block(codec, block)
        self[cid] = block
        return cid


@pytest.fixture
def blocks():
    return Blocks({LEAF_CID: LEAF})


def read(cid, blocks, limit=1 << 20):
    return b"".join(read_file(cid, blocks.get, limit))


@given(st.lists(LINKS, max_size=20), st.binary(max_size=100))
def test_a_node_that_is_written_is_read_back(links, data):
    assert decode_node(encode_node(links, data)) == (tuple(links), data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_node_or_a_storage_error(block):
    for decode in (decode_node, decode_unixfs):
        with suppress(StorageError):
            decode(block)


@given(st.lists(LINKS, min_size=1, max_size=4), st.data())
def test_a_node_with_altered_bytes_is_a_node_or_a_storage_error(links, data):
    block = bytearray(encode_node(links, encode_file([1] * len(links))))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    with suppress(StorageError):
        decode_unixfs(decode_node(bytes(block))[1])


@pytest.mark.parametrize(
    "block",
    [
        b"\x12\xff\xff\xff\xff\x0f",  # a link of 4 GiB
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a length of eleven bytes
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 64 bits
        b"\x0a\x00\x0a\x00",  # data twice
        b"\x12\x00",  # a link without a CID
        b"\x08\x01",  # a number where data is due
        b"\x09" + b"\0" * 8,  # a fixed 64-bit number
        b"\x12\x04\x12\x02\xff\xfe",  # a name that is not UTF-8
        b"\x0a",  # cut off
        b"\0" * (MAX_BLOCK + 1),
    ],
)
def test_a_malformed_node_is_refused(block):
    with pytest.raises(StorageError):
        decode_node(block)


def test_a_node_with_too_many_links_is_refused():
    link = encode_node([Link(LEAF_CID, "", 10)], b"")[:-2]
    with pytest.raises(StorageError, match="more than"):
        decode_node(link * (MAX_LINKS + 1))


def test_a_file_is_read_in_order_also_when_its_parts_repeat(blocks):
    inner = blocks.node([Link(LEAF_CID, "", 10)] * 2, encode_file([10, 10]))
    root = blocks.node([Link(inner, "", 0), Link(LEAF_CID, "", 0)], encode_file([20, 10]))
    assert read(root, blocks) == LEAF * 3
    assert file_size(root, blocks.get) == 30


def test_a_leaf_inside_dag_pb_is_read(blocks):
    old = blocks.node([], b"\x08\x02\x12\x0a" + LEAF + b"\x18\x0a")
    assert read(old, blocks) == LEAF


@pytest.mark.parametrize("sizes", [[10], [10, 11], [10, 10, 10], [20, 0], [5, 15]])
def test_parts_that_do_not_add_up_are_refused(blocks, sizes):
    root = blocks.node([Link(LEAF_CID, "", 10)] * 2, encode_file(sizes))
    with pytest.raises(StorageError, match="inconsistent"):
        read(root, blocks)


def test_a_size_that_the_root_does_not_keep_is_refused(blocks):
    root = blocks.node([Link(LEAF_CID, "", 10)], b"\x08\x02\x18" + varint(11) + b"\x20\x0a")
    with pytest.raises(StorageError, match="inconsistent"):
        read(root, blocks)


def test_a_small_dag_that_stands_for_a_huge_file_is_refused_before_a_byte(blocks):
    cid, size = LEAF_CID, 10
    for _ in range(8):
        cid, size = blocks.node([Link(cid, "", size)] * 100, encode_file([size] * 100)), size * 100
    with pytest.raises(StorageError, match="raise the limit"):
        next(read_file(cid, blocks.get, 1 << 40))


def test_a_dag_of_many_tiny_parts_ends_at_the_bound(blocks):
    tiny = blocks.block(b"x", RAW)
    inner = blocks.node([Link(tiny, "", 1)] * 2000, encode_file([1] * 2000))
    root = blocks.node([Link(inner, "", 2000)] * 2000, encode_file([2000] * 2000))
    visits = []

    def get(cid):
        visits.append(cid)
        return blocks.get(cid)

    with pytest.raises(StorageError, match="too many parts"):
        list(read_file(root, get, 4_000_000))
    assert len(visits) == most_blocks(4_000_000)


def test_a_chain_of_nodes_ends_at_the_greatest_depth(blocks):
    cid = LEAF_CID
    for _ in range(30):
        cid = blocks.node([Link(cid, "", 10)], encode_file([10]))
    with pytest.raises(StorageError, match="inconsistent"):
        read(cid, blocks)


def test_a_part_that_nobody_has_is_missing(blocks):
    absent = cid_of_block(RAW, b"absent 123")
    root = blocks.node([Link(LEAF_CID, "", 10), Link(absent, "", 10)], encode_file([10, 10]))
    with pytest.raises(ContentMissing):
        read(root, blocks)


def test_a_directory_is_not_a_file_and_a_file_no_directory(blocks):
    directory = blocks.node([Link(LEAF_CID, "a", 10)], encode_directory())
    file = blocks.node([Link(LEAF_CID, "", 10)], encode_file([10]))
    assert read(entry(directory, "a", blocks.get).cid, blocks) == LEAF
    with pytest.raises(StorageError, match="not a file"):
        read(directory, blocks)
    for other in (file, LEAF_CID):
        with pytest.raises(StorageError, match="not a"):
            directory_links(other, blocks.get)


def test_a_name_that_stands_for_two_files_is_refused(blocks):
    other = blocks.block(b"other", RAW)
    directory = blocks.node([Link(LEAF_CID, "a", 10), Link(other, "a", 5)], encode_directory())
    with pytest.raises(StorageError, match="2 files named 'a'"):
        entry(directory, "a", blocks.get)


def test_a_sharded_directory_is_refused(blocks):
    sharded = blocks.node([], b"\x08\x05\x28\x22\x30\x80\x02")
    with pytest.raises(StorageError, match="not a plain directory"):
        directory_links(sharded, blocks.get)
