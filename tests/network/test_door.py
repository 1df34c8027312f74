from types import SimpleNamespace

from node.causes import Cause, Tally
from node.network.door import Door, DoorRules


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
