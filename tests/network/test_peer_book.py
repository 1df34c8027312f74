import random

from node.network.peer_book import EXPIRY_SECONDS, MAX_ADDRESSES, MAX_PEERS, PeerBook, RedialRules


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def book(clock=None, own="a node"):
    return PeerBook(own, clock or Clock(), random.Random(1), RedialRules(first=1, longest=8))


def test_a_peer_with_an_address_is_due():
    peers = book()
    peers.hint("alice", ["a"])
    peers.hint("bob", [])
    assert peers.due() == ["alice"]


def test_we_are_never_due_ourselves():
    peers = book()
    peers.hint("a node", ["a"])
    assert peers.due() == []


def test_a_peer_that_fails_waits_longer_each_time():
    clock = Clock()
    peers = book(clock)
    peers.hint("alice", ["a"])
    waits = []
    for _ in range(6):
        peers.failed("alice")
        start = clock.now
        while not peers.due():
            clock.now += 0.1
        waits.append(clock.now - start)
    assert all(0.4 <= wait <= 8.1 for wait in waits)
    assert waits[-1] >= 4 > waits[0]


def test_a_new_address_makes_a_peer_due_at_once():
    peers = book()
    peers.hint("alice", ["a"])
    peers.failed("alice")
    assert peers.due() == []
    peers.hint("alice", ["a"])
    assert peers.due() == []
    peers.hint("alice", ["b"])
    assert peers.due() == ["alice"]
    assert peers.addresses("alice") == ["b", "a"]


def test_what_a_peer_says_of_itself_is_not_crowded_out_by_others():
    peers = book()
    peers.said_by_itself("alice", ["home"])
    for n in range(100):
        peers.hint("alice", [f"lie {n}"])
    assert peers.addresses("alice")[0] == "home"
    assert len(peers.addresses("alice")) == 1 + MAX_ADDRESSES


def test_only_peers_that_spoke_for_themselves_are_passed_on():
    peers = book()
    peers.hint("alice", ["a"])
    peers.said_by_itself("bob", ["b"])
    assert peers.reachable(10) == [("bob", ["b"])]


def test_the_address_that_worked_comes_first():
    peers = book()
    peers.hint("alice", ["a", "b", "c"])
    peers.succeeded("alice", "b")
    assert peers.addresses("alice") == ["b", "a", "c"]


def test_pinned_peers_are_kept():
    peers = book()
    peers.pin("alice", "a")
    assert peers.is_pinned("alice")
    assert not peers.is_pinned("bob")
    assert peers.due() == ["alice"]


def test_of_two_that_hear_of_each_other_the_smaller_id_dials_first():
    clock = Clock()
    alice, bob = book(clock, "alice"), book(clock, "bob")
    alice.hint("bob", ["b"])
    bob.hint("alice", ["a"])
    assert alice.due() == ["bob"]
    assert bob.due() == []
    clock.now = 1.0
    assert bob.due() == ["alice"]


def test_who_was_named_by_the_user_is_dialed_at_once():
    peers = book(own="z")
    peers.pin("alice", "a")
    peers.hint("alice", ["a"])
    assert peers.due() == ["alice"]


def test_invented_peers_crowd_out_no_member():
    peers = PeerBook("a node", Clock(), random.Random(1), is_member=lambda peer_id: peer_id == "alice")
    peers.said_by_itself("alice", ["a"])
    for n in range(MAX_PEERS + 10):
        peers.hint(f"invented {n}", ["b"])
    assert peers.addresses("alice") == ["a"]
    assert peers.addresses("invented 0") == []


def test_who_is_no_member_and_out_of_reach_is_forgotten_after_an_hour():
    clock = Clock()
    peers = PeerBook("a node", clock, random.Random(1), is_member=lambda peer_id: peer_id == "alice")
    for peer_id in ("alice", "bob", "carol"):
        peers.hint(peer_id, ["a"])
        peers.failed(peer_id)
    clock.now = EXPIRY_SECONDS / 2
    peers.hint("carol", ["a"])
    clock.now = EXPIRY_SECONDS + 1
    assert set(peers.due()) == {"alice", "carol"}
    assert peers.addresses("bob") == []


def test_where_members_are_is_what_they_or_the_user_say():
    peers = PeerBook("a node", Clock(), random.Random(1), is_member="alice".__eq__)
    relayed = "/ip4/192.0.2.9/tcp/1/p2p/relay/p2p-circuit"
    peers.said_by_itself(
        "alice", ["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1", "/dns4/example.org/tcp/1", relayed]
    )
    peers.hint("alice", ["/ip4/192.0.2.2/tcp/1"])
    peers.said_by_itself("mallory", ["/ip4/192.0.2.3/tcp/1"])
    peers.pin("tracker", "/ip4/192.0.2.4/tcp/1")
    assert peers.hosts_of_members() == ["192.0.2.1", "2001:db8::1", "192.0.2.4"]
