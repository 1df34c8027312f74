"""CIDs: the same as py-cid reads and writes, and nothing that is not ours."""

from contextlib import suppress

import cid as py_cid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import StorageError
from node.storage.cid import (
    DAG_PB,
    RAW,
    cid_from_bytes,
    cid_of_block,
    digest_of,
    directory_cid,
    format_cid,
    make_cid,
    parse_cid,
)

DIGESTS = st.binary(min_size=32, max_size=32)
EMPTY_DIRECTORY = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
EMPTY_DIRECTORY_V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"


@given(DIGESTS, st.sampled_from([(RAW, "raw"), (DAG_PB, "dag-pb")]))
def test_a_cid_is_what_py_cid_makes_of_it(digest, codec):
    ours = make_cid(codec[0], digest)
    theirs = py_cid.make_cid(1, codec[1], b"\x12\x20" + digest)
    assert (ours, format_cid(ours)) == (theirs.buffer, theirs.encode("base32").decode())
    assert parse_cid(theirs.encode("base58btc").decode()) == parse_cid(format_cid(ours)) == ours


@given(DIGESTS)
def test_the_ledger_needs_only_the_digest_of_a_directory(digest):
    assert digest_of(directory_cid(digest)) == digest


def test_a_cid_of_version_0_is_the_same_directory():
    assert format_cid(parse_cid(EMPTY_DIRECTORY_V0)) == EMPTY_DIRECTORY
    assert cid_from_bytes(parse_cid(EMPTY_DIRECTORY_V0)[2:]) == parse_cid(EMPTY_DIRECTORY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "hello",
        EMPTY_DIRECTORY[:-1],
        EMPTY_DIRECTORY + "a",
        EMPTY_DIRECTORY[:-1] + "5",  # the same bytes, spelt differently
        EMPTY_DIRECTORY.upper(),
        EMPTY_DIRECTORY_V0[:-1],
        "Q" * 46,
        "z" * 50,
        "bafyreigaknpexyvxt76zgkitavbwx6ejgfheup5oybpm77f3pxzrvwpfdi",  # dag-cbor
        "b" + "a" * 10_000_000,
        "Qm" + "1" * 10_000_000,
        f"/ipfs/{EMPTY_DIRECTORY}",
        EMPTY_DIRECTORY + "\n",
    ],
)
def test_what_is_no_cid_of_ours_is_refused_with_the_cure(text):
    with pytest.raises(StorageError, match="give a CIDv1"):
        parse_cid(text)


@given(st.text(max_size=80) | st.text("abcdefmQz123456789", min_size=44, max_size=60).map("b".__add__))
def test_any_text_is_a_cid_or_a_storage_error(text):
    with suppress(StorageError):
        assert len(parse_cid(text)) == 36


@pytest.mark.parametrize(("codec", "digest"), [(RAW, b"short"), (0x71, b"\0" * 32), (300, b"\0" * 32)])
def test_a_cid_is_made_only_of_known_codecs_and_whole_digests(codec, digest):
    with pytest.raises(StorageError):
        make_cid(codec, digest)


def test_a_block_has_the_cid_that_kubo_gives_it():
    assert (
        format_cid(cid_of_block(RAW, b"hello world\n")) == "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
    )
