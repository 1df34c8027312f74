"""A node in another process is attacked, by strangers and by members; it must stay small, alive and of service."""

import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message as DirectoryMessage
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from node.errors import PeerError
from node.network import wire_pb2
from node.network.addresses import parse_peer_address
from node.network.gossip import topic_of
from node.network.host import HostLimits, RunningHost, dial, run_host
from node.network.wire import announcement_message
from node.network.yamux import YamuxLimits
from tests.network.members import LOOPBACK, SESSION, announce, identity, member, until
from tests.network.victim import PAYLOAD

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
EXCHANGE = TProtocol("/fl-node/exchange/1")
MESHSUB = TProtocol("/meshsub/1.1.0")
DIRECTORY = TProtocol("/fl-node/kad/1.0.0")
BITSWAP = TProtocol("/ipfs/bitswap/1.2.0")
MALLORY = identity("mallory")
ALLOWED_GROWTH = 96 << 20  # bytes of resident memory, whatever one attack does


@dataclass
class Victim:
    process: trio.Process
    address: str
    lines: AsyncIterator[str]
    at_rest: int = 0

    async def state(self) -> dict:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"\n")
        with trio.fail_after(20):
            return json.loads(await anext(self.lines))

    async def has_counted(self, cause: str, least: int = 1) -> None:
        """Waits for the counter, and looks for the log line, of which there are few however often it happens."""
        with trio.move_on_after(20):
            while (state := await self.state())["refused"].get(cause, 0) < least:
                await trio.sleep(0.02)
        assert state["refused"].get(cause, 0) >= least, (cause, state["refused"])
        assert state["logged"].count(cause) == state["refused"][cause].bit_length()

    @property
    def peer_id(self) -> str:
        return parse_peer_address(self.address).peer_id


async def _lines(stream) -> AsyncIterator[str]:
    pending = b""
    async for data in stream:
        *whole, pending = (pending + data).split(b"\n")
        for line in whole:
            yield line.decode()


@pytest.fixture
async def victim(nursery):
    command = [sys.executable, "-W", "ignore", "-m", "tests.network.victim"]
    process = await nursery.start(
        lambda **kw: trio.run_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, check=False, **kw
        )
    )
    lines = _lines(process.stdout)
    with trio.fail_after(20):
        target = Victim(process, json.loads(await anext(lines))["address"], lines)
    await serves_the_honest(target)  # warm, so that growth is the attack's
    target.at_rest = (await target.state())["resident"]
    yield target
    await serves_the_honest(target)
    state = await target.state()
    growth = state["resident"] - target.at_rest
    assert growth < ALLOWED_GROWTH, f"grew by {growth >> 20} MiB"
    process.kill()


async def serves_the_honest(target: Victim) -> None:
    announcement = announce(identity("victim"), 1, PAYLOAD)
    async with member("honest", [target.address]) as honest:
        fetched = await honest.fetch(announcement, [target.peer_id], trio.current_time() + 20)
    assert fetched == PAYLOAD


@asynccontextmanager
async def attacker(target: Victim, name: str = "mallory") -> AsyncIterator[RunningHost]:
    """A host of somebody who knows the protocols and means ill; without the limits of ours on what it sends."""
    limits = HostLimits(yamux=YamuxLimits(max_streams=1000))
    async with run_host(identity(name), [LOOPBACK], lambda peer_id: True, limits) as running:
        for protocol in (EXCHANGE, MESHSUB, BITSWAP):
            running.host.set_stream_handler(protocol, _ignore)
        place = parse_peer_address(target.address)
        await dial(running.host, place.peer_id, place.address, 10)
        yield running


async def _ignore(stream: INetStream) -> None:
    while True:
        await stream.read(1 << 16)


async def open_stream(running: RunningHost, target: Victim, protocol: TProtocol) -> INetStream:
    return await running.host.new_stream(ID.from_string(target.peer_id), [protocol])


def frame(message) -> bytes:
    body = message if isinstance(message, bytes) else message.SerializeToString()
    return len(body).to_bytes(4, "big") + body


def gossip(*announcements, **changes) -> bytes:
    """A GossipSub RPC with announcements, signed by nobody."""
    rpc = rpc_pb2.RPC()
    for number, each in enumerate(announcements):
        data = each if isinstance(each, bytes) else announcement_message(each).SerializeToString()
        fields = {"data": data, "topicIDs": [topic_of(SESSION)], "from_id": ID.from_string(MALLORY.peer_id).to_bytes()}
        rpc.publish.append(rpc_pb2.Message(**fields | {"seqno": number.to_bytes(8, "big")} | changes))
    data = rpc.SerializeToString()
    return encode_uvarint(len(data)) + data


async def say(stream: INetStream, *messages: bytes) -> None:
    with suppress(BaseLibp2pError):
        for each in messages:
            await stream.write(each)


async def test_a_thousand_connections_that_say_nothing(victim):
    port = int(parse_peer_address(victim.address).address.rpartition("/")[2])
    async with AsyncExitStack() as held:

        async def hold():
            with suppress(OSError):
                held.push_async_callback((await trio.open_tcp_stream("127.0.0.1", port)).aclose)

        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(hold)
        refused = (await victim.state())["refused"]
        assert refused["address-rate"] + refused["handshake-pushed-out"] > 500
        await victim.has_counted("address-rate")
        await victim.has_counted("handshake-pushed-out")
        await serves_the_honest(victim)


async def test_garbage_on_hundreds_of_connections(victim):
    port = int(parse_peer_address(victim.address).address.rpartition("/")[2])
    chance = random.Random(5)

    async def throw(content):
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(content)

    for _ in range(8):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                prefix = chance.choice([b"", b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x07/noise\n"])
                nursery.start_soon(throw, prefix + chance.randbytes(chance.randrange(2000)))
    await victim.has_counted("bad-handshake", 100)


async def test_strangers_with_many_names(victim):
    async def visit(number):
        try:
            async with attacker(victim, f"stranger {number}") as stranger:
                stream = await open_stream(stranger, victim, EXCHANGE)
                request = wire_pb2.Request(peers=wire_pb2.PeersRequest(session_id=SESSION))
                await say(stream, frame(request))
        except* (PeerError, BaseLibp2pError):
            pass  # turned away

    for start in range(0, 60, 20):
        async with trio.open_nursery() as nursery:
            for number in range(start, start + 20):
                nursery.start_soon(visit, number)
    assert (await victim.state())["linked"] <= 16 + 4
    await victim.has_counted("stranger-asks")
    await victim.has_counted("stranger-limit")


async def test_streams_that_stay_half_open(victim):
    async with attacker(victim) as mallory:
        (connection,) = mallory.host.get_network().get_connections(ID.from_string(victim.peer_id))
        before = (await victim.state())["tasks"]
        for _ in range(10):
            stream = await connection.muxed_conn.open_stream()
            await stream.write(b"\x13/multi")
            await stream.close()
        await victim.has_counted("half-open-stream", 10)
        for _ in range(70):
            with suppress(BaseLibp2pError):
                stream = await connection.muxed_conn.open_stream()
                await stream.write(b"\x13/multi")
        await victim.has_counted("surplus-stream", 6)
        for protocol in (EXCHANGE, BITSWAP, MESHSUB):
            with suppress(BaseLibp2pError):
                for _ in range(3):
                    await say(await open_stream(mallory, victim, protocol), b"\x00\x00\x00\x10")
        assert (await victim.state())["tasks"] < before + 200


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        pytest.param(frame(b""), "empty-request", id="a frame of length zero"),
        pytest.param(frame(b"\xff" * 100), "bad-request", id="a frame that is no message"),
        pytest.param((1 << 31).to_bytes(4, "big") + bytes(100_000), "bad-request", id="a frame of 2 GiB"),
        pytest.param(frame(b"\x0a\xff\xff\xff\xff\x0f" * 2000), "bad-request", id="fields within fields"),
        pytest.param(frame(b"\x1b" * 10_000), "bad-request", id="groups within groups"),
        pytest.param(b"\x00\x00", None, id="half a length"),
    ],
)
async def test_requests_that_cannot_be(victim, content, cause):
    async with attacker(victim) as mallory:
        for _ in range(20):
            with suppress(BaseLibp2pError):
                stream = await open_stream(mallory, victim, EXCHANGE)
                await say(stream, content)
                await stream.close()
        if cause:
            await victim.has_counted(cause)


async def test_too_many_requests(victim):
    async with attacker(victim) as mallory:
        request = frame(wire_pb2.Request(payload=wire_pb2.PayloadRequest(digest=bytes(32))))
        for _ in range(10):
            with suppress(BaseLibp2pError), trio.move_on_after(2):
                stream = await open_stream(mallory, victim, EXCHANGE)
                await say(stream, request * 600)
        await victim.has_counted("too-many-requests")


async def test_readers_that_never_read(victim):
    digest = announce(identity("victim"), 1, PAYLOAD).digest
    request = frame(wire_pb2.Request(payload=wire_pb2.PayloadRequest(digest=digest)))
    async with attacker(victim) as mallory:
        with suppress(BaseLibp2pError):
            for _ in range(8):
                await say(await open_stream(mallory, victim, EXCHANGE), request * 10)
        await victim.has_counted("busy")
        await serves_the_honest(victim)


async def test_writers_that_never_finish(victim):
    async def drip(stream):
        with suppress(BaseLibp2pError):
            await say(stream, (1000).to_bytes(4, "big"))
            for _ in range(40):
                await stream.write(b"\x0a")
                await trio.sleep(0.1)

    async with attacker(victim) as mallory, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(drip, await open_stream(mallory, victim, EXCHANGE))
        await victim.has_counted("too-slow", 6)
        nursery.cancel_scope.cancel()


async def test_announcements_in_another_s_name_and_garbage_as_announcements(victim):
    forged = announce(MALLORY, 1, b"payload")
    bad = [b"", b"\xff" * 500, bytes(60_000), announcement_message(forged).SerializeToString()[:-70] + bytes(70)]
    async with attacker(victim) as mallory:
        stream = await open_stream(mallory, victim, MESHSUB)
        for each in bad:
            await say(stream, gossip(each))
        await victim.has_counted("bad-announcement", 4)
        await say(stream, gossip(announce(MALLORY, 1, b"payload"), topicIDs=["another"]))
        await victim.has_counted("foreign-topic")
        await say(stream, gossip(announce(MALLORY, 1, b"payload", SESSION + 1)))
        await victim.has_counted("foreign-session")
        await say(stream, gossip(announce(identity("nobody"), 1, b"payload")))
        await victim.has_counted("not-a-member")
        await say(stream, gossip(announce(identity("minion 1"), 1, b"theirs"), announce(MALLORY, 1, b"theirs")))
        await victim.has_counted("copied-update")


async def test_a_flood_of_announcements_and_replays_of_old_rounds(victim):
    made = [announce(MALLORY, round, b"payload") for round in range(600)]
    async with attacker(victim) as mallory:
        stream = await open_stream(mallory, victim, MESHSUB)
        for start in range(0, 600, 100):
            await say(stream, gossip(*made[start : start + 100]))
        await say(stream, gossip(*made[:50]))
        await victim.has_counted("too-old")
        await say(stream, gossip(*made[-50:-40]))
        await victim.has_counted("replayed")
        await victim.has_counted("repeated-update", 100)
        for _ in range(60):
            await say(stream, gossip(*made[500:600]))
        await victim.has_counted("announcement-flood")


async def test_gossip_that_is_garbage(victim):
    chance = random.Random(3)
    async with attacker(victim) as mallory:
        control = rpc_pb2.ControlMessage()
        for number in range(150):  # within the size of an RPC
            control.graft.add(topicID=f"topic {number}")
            control.prune.add(topicID=f"topic {number}", backoff=1 << 62).peers.add(peerID=os.urandom(38))
            control.ihave.add(topicID=topic_of(SESSION)).messageIDs.extend([os.urandom(20)] * 5)
            control.iwant.add().messageIDs.extend([os.urandom(20)])
        data = rpc_pb2.RPC(control=control, senderRecord=os.urandom(500)).SerializeToString()
        subscriptions = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {n}") for n in range(1000)]
        many = rpc_pb2.RPC(subscriptions=subscriptions).SerializeToString()
        for content in (data, many, chance.randbytes(1000), b"\x0a" * 500):
            with suppress(BaseLibp2pError):
                stream = await open_stream(mallory, victim, MESHSUB)
                await say(stream, *[encode_uvarint(len(content)) + content] * 10)
        with suppress(BaseLibp2pError):
            await say(await open_stream(mallory, victim, MESHSUB), encode_uvarint(1 << 40) + bytes(100_000))
        for cause in ("bad-gossip", "gossip-control", "gossip-subscriptions"):
            await victim.has_counted(cause)


async def test_wantlists_and_blocks_without_end(victim):
    from libp2p.bitswap.pb.bitswap_pb2 import Message

    wants = Message()
    for number in range(5000):
        wants.wantlist.entries.add(block=number.to_bytes(36, "big"), sendDontHave=True)
    blocks = Message()
    blocks.payload.add(prefix=bytes([1, 0x55, 0x12, 0x20]), data=bytes(200_000))
    async with attacker(victim) as mallory:
        for message in (wants, blocks):
            data = message.SerializeToString()
            with suppress(BaseLibp2pError), trio.move_on_after(3):
                stream = await open_stream(mallory, victim, BITSWAP)
                await say(stream, *[encode_uvarint(len(data)) + data] * 20)
        await victim.has_counted("unsolicited-block")
        await victim.has_counted("too-many-wants")
        await victim.has_counted("bad-want")
        for content, cause in [
            (Message(payload=[Message.Block(prefix=b"\xff" * 9, data=b"block")]).SerializeToString(), "bad-block"),
            (b"\xff" * 50, "bad-block-message"),
        ]:
            stream = await open_stream(mallory, victim, BITSWAP)
            await say(stream, encode_uvarint(len(content)) + content)
            await victim.has_counted(cause)
        await say(await open_stream(mallory, victim, BITSWAP), encode_uvarint(1 << 30))
        await victim.has_counted("oversized-block-message")


async def test_messages_of_the_directory_that_cannot_be(victim):
    key = DirectoryMessage(type=DirectoryMessage.FIND_NODE, key=bytes(65)).SerializeToString()
    async with attacker(victim) as mallory:
        for content in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f" * 20, key):
            await say(await open_stream(mallory, victim, DIRECTORY), encode_uvarint(len(content)) + content)
        await say(await open_stream(mallory, victim, DIRECTORY), encode_uvarint(1 << 30))
        await victim.has_counted("bad-directory-message", 4)
        question = DirectoryMessage(type=DirectoryMessage.FIND_NODE, key=bytes(32)).SerializeToString()
        await say(await open_stream(mallory, victim, DIRECTORY), (encode_uvarint(len(question)) + question) * 150)
        await victim.has_counted("directory-flood")


async def test_a_member_that_goes_on_misbehaving_is_banned(victim):
    async with attacker(victim) as mallory:
        stream = await open_stream(mallory, victim, MESHSUB)
        await say(stream, *[gossip(b"\xff")] * 20)
        await until(lambda: not mallory.host.get_network().connections)
        place = parse_peer_address(victim.address)
        with pytest.raises((PeerError, BaseLibp2pError)):  # noqa: PT012  (either of them may notice)
            await dial(mallory.host, place.peer_id, place.address, 5)
            await (await open_stream(mallory, victim, EXCHANGE)).read(1)
        assert (await victim.state())["scores"][MALLORY.peer_id] <= -100
    await victim.has_counted("banned-peer")
