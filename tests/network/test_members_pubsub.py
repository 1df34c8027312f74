"""What the session's GossipSub keeps is bounded."""

from libp2p.pubsub.pb import rpc_pb2

from node.network.members_pubsub import MESSAGES_REMEMBERED, session_router


def message(number, data=b"first"):
    return rpc_pb2.Message(from_id=b"peer", seqno=number.to_bytes(8, "big"), data=data, topicIDs=["topic"])


def test_the_router_remembers_the_newest_messages_alone():
    router, heard = session_router(), 3 * MESSAGES_REMEMBERED
    assert all(router._check_equivocation(message(number)) for number in range(heard))
    assert len(router.equivocation_detection) == MESSAGES_REMEMBERED
    assert not router._check_equivocation(message(heard - 1, b"second"))  # two under one number: still found
    assert router._check_equivocation(message(heard - 1))
    assert router._check_equivocation(message(0, b"second"))  # forgotten
