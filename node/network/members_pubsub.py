"""py-libp2p's GossipSub for one topic and members only, with the faults of 0.8.1 closed off that end a node.

Knows no announcement: whoever constructs it judges messages. What is mended here, to be removed with the fault:
an exception in a message's task or in the heartbeat ends the service; a task is spawned per message without bound;
peer exchange dials whatever a prune names; state is kept for any topic that a control message names; every message
that was ever heard is kept; with the adaptive parameters a small mesh counts as unhealthy, and the heartbeat goes
from 1 s to 60 s.
"""

from collections import defaultdict, deque
from collections.abc import Callable

import trio
from cachetools import FIFOCache
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from node.causes import Cause
from node.network.containment import containing, is_malformed, is_ordinary
from node.network.standing import Standings

MAX_RPC = 65_536  # bytes
MAX_CONTROL_IDS = 512  # message ids in one control message
GARBAGE_PENALTY = 10.0
MAX_SUBSCRIPTIONS = 4  # per RPC and peer; a session has one topic
DELIVERIES_REMEMBERED = 64
MESSAGES_REMEMBERED = 128  # each with the whole RPC that brought it

Admit = Callable[[ID, rpc_pb2.Message], bool]


def session_router() -> GossipSub:
    """GossipSub with the parameters that were measured for sessions of up to some hundred members."""
    router = GossipSub(
        protocols=[PROTOCOL_ID_V12, PROTOCOL_ID_V11, PROTOCOL_ID],
        degree=6,
        degree_low=4,
        degree_high=12,
        gossip_window=3,
        gossip_history=10,
        heartbeat_initial_delay=0.1,
        heartbeat_interval=1,
        max_messages_per_topic_per_second=1000.0,
        adaptive_gossip_enabled=False,
        eclipse_protection_enabled=False,  # counts addresses: on one network all look like one attacker
        do_px=False,
    )
    _keep_heartbeat_alive(router)
    _bound_delivery_log(router)
    _bound_messages(router)
    return router


def _keep_heartbeat_alive(router: GossipSub) -> None:
    """Fault: an exception in the heartbeat ends the service."""
    beat = router.heartbeat

    async def heartbeat() -> None:
        while True:
            with containing("gossip heartbeat"):
                await beat()
            await trio.sleep(router.heartbeat_interval)

    router.heartbeat = heartbeat


def _bound_delivery_log(router: GossipSub) -> None:
    """Fault: the times of all deliveries and connections are kept for ever."""
    router.recent_message_deliveries = defaultdict(lambda: deque(maxlen=DELIVERIES_REMEMBERED))
    router.recent_peer_connections = deque(maxlen=DELIVERIES_REMEMBERED)


def _bound_messages(router: GossipSub) -> None:
    """Fault: the first message under each number of a peer's is kept for ever.

    Two under one number cost their sender its score; what it signed twice is found out by the announcements' book.
    """
    router.equivocation_detection = FIFOCache(MESSAGES_REMEMBERED)


class MembersPubsub(Pubsub):
    """Pubsub on `topic` with the peers that pass `gate`; a message goes on only if `admit` says so."""

    def __init__(
        self,
        host: IHost,
        router: GossipSub,
        topic: str,
        gate: Callable[[str], bool],
        admit: Admit,
        standings: Standings,
    ) -> None:
        super().__init__(
            host,
            router,
            max_inbound_rpc_size=MAX_RPC,
            max_subscriptions_per_rpc=MAX_SUBSCRIPTIONS,
            max_subscriptions_per_peer=MAX_SUBSCRIPTIONS,
            allowed_topics={topic},
        )
        self._topic = topic
        self._gate = gate
        self._admit = admit
        self._standings = standings

    async def _handle_new_peer(self, peer_id: ID) -> None:
        if self._gate(str(peer_id)):
            with containing("gossip stream", peer_id):
                await super()._handle_new_peer(peer_id)

    async def stream_handler(self, stream: INetStream) -> None:
        """Reads a member's stream; a stranger's is reset."""
        peer_id = stream.muxed_conn.peer_id
        if not self._gate(str(peer_id)):
            self._standings.count(Cause.STRANGER_GOSSIPS, str(peer_id))
            await stream.reset()
            return
        with containing("gossip", peer_id) as outcome:
            await self._read(stream, peer_id)
        if is_malformed(outcome.error):
            self._standings.penalize(str(peer_id), GARBAGE_PENALTY, Cause.BAD_GOSSIP, outcome.error)
        elif not is_ordinary(outcome.error):  # it may be the library's fault
            self._standings.count(Cause.BROKEN_STREAM, str(peer_id), repr(outcome.error))
        await stream.reset()
        self._handle_dead_peer(peer_id)

    async def _read(self, stream: INetStream, peer_id: ID) -> None:
        """One RPC after the other, so a peer that sends faster than we check is slowed down by its own window."""
        while self._gate(str(peer_id)):
            data = await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(data)
            for message in rpc.publish:
                if list(message.topicIDs) == [self._topic]:
                    await self.push_msg(peer_id, message)
                else:
                    self._standings.count(Cause.FOREIGN_TOPIC, str(peer_id))
            if len(rpc.subscriptions) > MAX_SUBSCRIPTIONS:
                self._standings.count(Cause.GOSSIP_SUBSCRIPTIONS, str(peer_id), f"{len(rpc.subscriptions)} in one RPC")
            for subscription in list(rpc.subscriptions)[:MAX_SUBSCRIPTIONS]:
                self.handle_subscription(peer_id, subscription)
            if rpc.HasField("control"):
                kept = self._sifted(rpc.control)
                if kept.ByteSize() < rpc.control.ByteSize():
                    detail = f"{rpc.control.ByteSize()} bytes, of which {kept.ByteSize()} are taken"
                    self._standings.count(Cause.GOSSIP_CONTROL, str(peer_id), detail)
                await self.router.handle_rpc(rpc_pb2.RPC(control=kept), peer_id)

    def _sifted(self, control: rpc_pb2.ControlMessage) -> rpc_pb2.ControlMessage:
        """What of a control message concerns our topic, in bounds, without peer exchange."""
        kept = rpc_pb2.ControlMessage()
        kept.graft.extend([each for each in control.graft if each.topicID == self._topic][:1])
        for prune in [each for each in control.prune if each.topicID == self._topic][:1]:
            kept.prune.append(rpc_pb2.ControlPrune(topicID=self._topic, backoff=min(prune.backoff, 600)))
        for ihave in [each for each in control.ihave if each.topicID == self._topic][:1]:
            kept.ihave.append(rpc_pb2.ControlIHave(topicID=self._topic, messageIDs=ihave.messageIDs[:MAX_CONTROL_IDS]))
        for iwant in control.iwant[:1]:
            kept.iwant.append(rpc_pb2.ControlIWant(messageIDs=iwant.messageIDs[:MAX_CONTROL_IDS]))
        for idontwant in control.idontwant[:1]:
            kept.idontwant.append(rpc_pb2.ControlIDontWant(messageIDs=idontwant.messageIDs[:MAX_CONTROL_IDS]))
        return kept

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Forwards a message that is ours, or that is unseen and admitted."""
        if msg_forwarder != self.my_id and (self._is_msg_seen(msg) or not self._admit(msg_forwarder, msg)):
            return
        await super().push_msg(msg_forwarder, msg)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Nothing: what is admitted has been delivered, and a subscription drops messages when 15 wait."""
