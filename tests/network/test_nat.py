"""The NAT of the tests translates as real ones do: mappings, filters, checksums."""

import struct

from tests.network.nat import (
    FIRST_PORT,
    PUBLIC,
    Internet,
    Nat,
    checksum,
    destination_of,
    ip4,
    is_tcp,
    readdressed,
    source_of,
)

INSIDE, SERVER, PEER = (ip4("10.1.0.2"), 4001), (PUBLIC["middle"], 4010), (PUBLIC["right"], 20_000)


def segment(source, to, payload=b"hello"):
    blank = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 7, 0, 64, 6, 0, bytes(4), bytes(4))
    head = struct.pack("!HHIIBBHHH", 0, 0, 1, 0, 0x50, 2, 1024, 0, 0)
    return readdressed(blank + head + payload, source, to)


def is_sound(packet):
    pseudo = packet[12:20] + struct.pack("!BBH", 0, 6, len(packet) - 20)
    return checksum(packet[:20]) == 0 and checksum(pseudo + packet[20:]) == 0


def test_a_checksum_is_that_of_rfc_1071():
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # its section 3: the sum is ddf2


def test_a_cone_nat_has_one_mapping_for_an_inside_port_and_a_symmetric_one_has_another_for_each_place():
    for symmetric, ports in ((False, [FIRST_PORT, FIRST_PORT]), (True, [FIRST_PORT, FIRST_PORT + 1])):
        nat = Nat(PUBLIC["left"], symmetric)
        left = [nat.out(segment(INSIDE, to)) for to in (SERVER, PEER)]
        assert [source_of(packet) for packet in left] == [(PUBLIC["left"], port) for port in ports]
        assert [destination_of(packet) for packet in left] == [SERVER, PEER]
        assert all(map(is_sound, left))


def test_a_nat_lets_in_only_what_comes_from_a_place_that_was_sent_to_through_that_mapping():
    nat = Nat(PUBLIC["left"])
    nat.out(segment(INSIDE, SERVER))
    mapped = (PUBLIC["left"], FIRST_PORT)
    answer = nat.into(segment(SERVER, mapped))
    assert answer is not None
    assert is_sound(answer)
    assert destination_of(answer) == INSIDE
    assert answer.endswith(b"hello")
    for stranger in (PEER, (SERVER[0], SERVER[1] + 1)):
        assert nat.into(segment(stranger, mapped)) is None
    assert nat.into(segment(SERVER, (PUBLIC["left"], FIRST_PORT + 1))) is None
    assert nat.dropped == 3
    nat.out(segment(INSIDE, PEER))
    assert nat.into(segment(PEER, mapped)) is not None


def test_the_internet_counts_what_goes_from_nat_to_nat_and_drops_what_it_does_not_know():
    arrived = []
    send = {side: lambda packet, side=side: arrived.append((side, packet)) for side in PUBLIC}
    internet = Internet(send, symmetric=False)
    internet.carry("left", segment(INSIDE, SERVER))
    internet.carry("left", segment(INSIDE, (PUBLIC["right"], FIRST_PORT)))  # dropped by right's NAT
    assert [side for side, _ in arrived] == ["middle"]
    assert internet.direct == 0
    internet.carry("right", segment((ip4("10.2.0.2"), 4001), (PUBLIC["left"], FIRST_PORT)))
    assert [side for side, _ in arrived] == ["middle", "left"]
    assert internet.direct == 45
    for noise in (b"", b"\x60" + bytes(60), b"\x45" + bytes(60), segment(INSIDE, (ip4("192.0.2.9"), 1))):
        internet.carry("left", noise)
    assert len(arrived) == 2
    assert not is_tcp(segment(INSIDE, SERVER)[:39])
