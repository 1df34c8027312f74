import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import NetworkError
from node.network.addresses import concrete, interface_addresses, known_addresses, parse_address, parse_peer_address
from tests.network.members import identity

PEER = identity("alice").peer_id


@pytest.mark.parametrize("address", ["/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/1", "/dns4/example.org/tcp/4001"])
def test_a_peer_address_names_peer_and_place(address):
    parsed = parse_peer_address(f"{address}/p2p/{PEER}")
    assert (parsed.peer_id, parsed.address) == (PEER, address)
    assert str(parsed) == f"{address}/p2p/{PEER}"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "names no peer"),
        (f"/ip4/192.0.2.1/udp/4001/p2p/{PEER}", "no TCP address"),
        (f"/ip4/192.0.2.1/tcp/4001/ws/p2p/{PEER}", "no TCP address"),
        (f"/ip4/1.2.3/tcp/4001/p2p/{PEER}", "no multiaddr"),
        (f"/ip4/192.0.2.1/tcp/70000/p2p/{PEER}", "no multiaddr"),
        ("/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo", "no Ed25519 peer id"),
        (f"192.0.2.1:4001/p2p/{PEER}", "no multiaddr"),
        ("", "names no peer"),
        ("/" * 1000 + f"/p2p/{PEER}", "too long"),
    ],
)
def test_a_malformed_peer_address_says_what_is_wrong(text, cure):
    with pytest.raises(NetworkError, match=cure):
        parse_peer_address(text)


@given(st.text(max_size=100))
def test_any_text_is_an_address_or_a_network_error(text):
    try:
        outcome = parse_address(text)
    except NetworkError as error:
        outcome = str(error)
    assert "/tcp/" in outcome
    assert "\n" not in outcome


def test_a_wildcard_is_announced_as_concrete_addresses():
    announced = concrete("/ip4/0.0.0.0/tcp/0", 4001)
    assert announced
    assert all("0.0.0.0" not in each and each.endswith("/tcp/4001") for each in announced)
    assert {each.split("/")[2] for each in announced} <= set(interface_addresses())


def test_a_concrete_address_is_announced_as_it_is():
    assert concrete("/ip4/127.0.0.1/tcp/0", 4001) == ["/ip4/127.0.0.1/tcp/4001"]


def test_addresses_from_outside_are_cut_to_what_can_be_dialed():
    texts = ["garbage", "/ip4/192.0.2.1/tcp/1", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}", "/ip4/192.0.2.2/tcp/1", "/unix/x"]
    assert known_addresses(texts, 8) == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]
    assert known_addresses(texts, 1) == ["/ip4/192.0.2.1/tcp/1"]
