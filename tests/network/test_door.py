import random
import sys
from types import SimpleNamespace

import pytest
import trio

from node.causes import Cause, Tally
from node.network.addresses import host_and_port
from node.network.door import Door, DoorRules, source_of
from node.network.host import HostLimits
from tests.network.members import meet, member


class Coming:
    """A connection that comes from an address, with a handshake that ends when it is closed."""

    is_booked = is_named = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = trio.Event()

    def get_remote_address(self) -> tuple[str, int]:
        return self.address, 4001

    async def close(self) -> None:
        self.closed.set()


def coming_from(address: str) -> SimpleNamespace:
    return SimpleNamespace(get_remote_address=lambda: (address, 4001))


async def test_one_address_is_held_to_its_rate_and_leaves_room_for_others(autojump_clock):
    tally = Tally()
    door = Door(DoorRules(per_second=1, burst=3, total_per_second=1, total_burst=5), tally)
    assert [door.lets_in(coming_from("192.0.2.1")) for _ in range(50)].count(True) == 3
    assert [door.lets_in(coming_from("192.0.2.2")) for _ in range(2)] == [True, True]
    assert tally.counts == {Cause.ADDRESS_RATE: 47}


async def test_many_addresses_together_are_held_to_a_rate(autojump_clock):
    tally = Tally()
    door = Door(DoorRules(total_per_second=1, total_burst=5), tally)
    assert [door.lets_in(coming_from(f"192.0.2.{n}")) for n in range(50)].count(True) == 5
    assert tally.counts == {Cause.TOTAL_RATE: 45}


async def test_an_ipv6_network_is_one_source(autojump_clock):
    tally = Tally()
    door = Door(DoorRules(per_second=1, burst=3), tally)
    assert [door.lets_in(coming_from(f"2001:db8::{n:x}")) for n in range(50)].count(True) == 3
    assert tally.counts == {Cause.ADDRESS_RATE: 47}
    assert door.lets_in(coming_from("2001:db8:0:1::1"))


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("gone", "gone"),
    ],
)
def test_the_source_of_an_address(host, source):
    assert source_of(host) == source


@pytest.mark.parametrize("strangers", [lambda n: f"192.0.2.{n % 20}", lambda n: f"2001:db8:0:{n % 65536:x}::1"])
async def test_members_come_in_however_many_addresses_strangers_have(autojump_clock, strangers):
    door = Door(DoorRules(), Tally())
    door.members_at = lambda: ["198.51.100.7"]
    chance, count, members, let_in = random.Random(1), 0, [], 0
    for _ in range(40):
        moment = chance.randrange(1000)
        for number in range(1000):
            count += 1
            let_in += door.lets_in(coming_from(strangers(count)))
            if number == moment:
                members.append(door.lets_in(coming_from("198.51.100.7")))
        await trio.sleep(1)
    assert all(members)
    assert let_in <= DoorRules().total_burst + 40 * DoorRules().total_per_second


async def test_members_addresses_are_held_to_rates_too(autojump_clock):
    door = Door(DoorRules(burst=3, total_per_second=1, total_burst=5), Tally())
    door.members_at = lambda: [f"198.51.100.{n}" for n in range(50)]
    assert [door.lets_in(coming_from("198.51.100.1")) for _ in range(50)].count(True) == 3
    assert [door.lets_in(coming_from(f"198.51.100.{n}")) for n in range(50)].count(True) == 2


async def test_who_is_expected_comes_in_when_strangers_have_come_too_often(autojump_clock):
    door = Door(DoorRules(total_per_second=1, total_burst=5), Tally())
    for n in range(50):
        door.lets_in(coming_from(f"192.0.2.{n}"))
    assert not door.lets_in(coming_from("198.51.100.7"))
    assert door.lets_in(coming_from("198.51.100.7"), expected=True)


async def test_slow_handshakes_push_out_those_of_the_source_that_has_most(autojump_clock):
    tally = Tally()
    door = Door(DoorRules(max_pending=4), tally)
    door.members_at = lambda: ["198.51.100.7"]

    async def shake_hands(stream):
        async with door.passing(stream):
            await stream.closed.wait()

    async with trio.open_nursery() as nursery:
        member, honest, *slow = map(Coming, ["198.51.100.7", "203.0.113.1", *["192.0.2.1"] * 10])
        for each in (member, honest, *slow):
            nursery.start_soon(shake_hands, each)
            await trio.sleep(0.1)
        assert [each.closed.is_set() for each in slow] == [True] * 8 + [False] * 2
        many = [Coming(f"192.0.2.{n}") for n in range(2, 12)]
        for each in many:
            nursery.start_soon(shake_hands, each)
            await trio.sleep(0.1)
        assert not member.closed.is_set()
        assert tally.counts == {Cause.HANDSHAKE_PUSHED_OUT: 18}
        nursery.cancel_scope.cancel()


async def is_let_in(host: str, port: int, source: str) -> bool:
    """Whether a connection from an address of this machine stays open for a moment."""
    with trio.socket.socket() as sock:
        await sock.bind((source, 0))
        await sock.connect((host, port))
        with trio.move_on_after(0.5) as moment:
            while await sock.recv(100):
                pass
        return moment.cancelled_caught


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_a_member_that_was_here_comes_back_when_strangers_have_come_too_often():
    rules = DoorRules(total_per_second=0.001, total_burst=8)
    async with member("alice", host=HostLimits(door=rules)) as alice:
        host, port = host_and_port(alice.addresses()[0].partition("/p2p/")[0])
        async with member("bob", alice.addresses()) as bob:
            await meet(alice, bob)
        for _ in range(8):
            last = await is_let_in(host, port, "127.0.0.2")
        assert not last
        assert not await is_let_in(host, port, "127.0.0.3")
        async with member("bob", alice.addresses()) as bob:
            await meet(alice, bob)
