"""The rendezvous protocol of libp2p (https://github.com/libp2p/specs/tree/master/rendezvous): messages and the asking
side, by which members find a tracker's other members. The tracker itself is in `tracker.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.discovery.rendezvous.pb.rendezvous_pb2 import Message
from libp2p.exceptions import BaseLibp2pError

from node.errors import PeerError
from node.network.delimited import decode_peer, encode_addresses, encode_peer_id, receive, send
from node.network.wire import patience

PROTOCOL = "/rendezvous/1.0.0"
MAX_ANSWERS = 64  # registrations taken from one reply
REPLY_SECONDS = 10.0
OK = Message.ResponseStatus.OK


@dataclass(frozen=True)
class Found:
    """A page of a look-up: members with their addresses, and the cookie for the next page (empty at the end)."""

    members: tuple[tuple[str, tuple[str, ...]], ...]
    cookie: bytes


def namespace_of(session_id: int) -> str:
    """Where members of a session register."""
    return f"/fl-node/1/{session_id:016x}"


async def announce(stream: INetStream, namespace: str, peer_id: str, addresses: Iterable[str], seconds: float) -> float:
    """Registers `peer_id` for about `seconds`; returns for how long the tracker will remember it. Raises PeerError."""
    register = Message.Register(ns=namespace, ttl=int(seconds), peer=peer_message(peer_id, addresses))
    reply = await _ask(stream, Message(type=Message.REGISTER, register=register))
    answer = reply.registerResponse
    if reply.type != Message.REGISTER_RESPONSE or answer.status != OK:
        raise PeerError(f"the tracker refuses to register this node: {answer.statusText[:200]!r}; trying again")
    return float(answer.ttl or seconds)


async def look_up(stream: INetStream, namespace: str, limit: int, cookie: bytes = b"") -> Found:
    """Some members of a namespace. Raises PeerError."""
    discover = Message.Discover(ns=namespace, limit=limit, cookie=cookie)
    reply = await _ask(stream, Message(type=Message.DISCOVER, discover=discover))
    answer = reply.discoverResponse
    if reply.type != Message.DISCOVER_RESPONSE or answer.status != OK:
        raise PeerError(f"the tracker refuses the look-up: {answer.statusText[:200]!r}; trying again")
    members = [
        decode_peer(each.peer.id, each.peer.addrs)
        for each in answer.registrations[:MAX_ANSWERS]
        if each.ns == namespace
    ]
    return Found(tuple(each for each in members if each is not None), answer.cookie)


def peer_message(peer_id: str, addresses: Iterable[str]) -> Message.PeerInfo:
    """A peer as it travels."""
    return Message.PeerInfo(id=encode_peer_id(peer_id), addrs=encode_addresses(addresses))


async def _ask(stream: INetStream, message: Message) -> Message:
    peer_id = str(stream.muxed_conn.peer_id)
    try:
        with patience(peer_id, REPLY_SECONDS):
            await send(stream, message)
            return await receive(stream, Message)
    except (BaseLibp2pError, DecodeError) as error:
        raise PeerError(f"the tracker {peer_id} gives no answer ({type(error).__name__}); trying again") from error
    raise AssertionError("unreachable")


async def finish(stream: INetStream) -> None:
    """Ends a stream to a tracker, whatever state it is in."""
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        await stream.reset()
