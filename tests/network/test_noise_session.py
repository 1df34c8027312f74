"""The encrypted byte stream, with ciphers that change nothing."""

from types import SimpleNamespace

from node.network.noise_session import FIRST_BUFFER, LARGE_BUFFER, LENGTH_BYTES, SMALL_READS, NoiseSession


class Plain:
    """Stands for both ciphers."""

    def encrypt_with_ad(self, _, message):
        return bytes(message)

    def decrypt_with_ad(self, _, message):
        return bytes(message)


class Wire:
    """Gives what it holds, as much as there is room for."""

    def __init__(self):
        self.data = b""

    def send(self, *messages):
        self.data += b"".join(len(message).to_bytes(LENGTH_BYTES, "big") + message for message in messages)

    async def read_into(self, buffer):
        part = self.data[: len(buffer)]
        buffer[: len(part)] = part
        self.data = self.data[len(part) :]
        return len(part)


def session_over(wire):
    protocol = SimpleNamespace(cipher_state_encrypt=Plain(), cipher_state_decrypt=Plain())
    conn = SimpleNamespace(noise_state=SimpleNamespace(noise_protocol=protocol))
    peers = dict.fromkeys(("local_peer", "local_private_key", "remote_peer", "remote_permanent_pubkey"))
    shaken = SimpleNamespace(**peers, is_initiator=True, conn=conn)
    return NoiseSession(shaken, SimpleNamespace(stream=wire))


async def test_the_buffer_is_large_while_a_connection_carries_much():
    wire = Wire()
    session = session_over(wire)
    bulk = [bytes([number]) * 60_000 for number in range(8)]
    wire.send(*bulk)
    received = []
    while len(received) < len(bulk):
        received += await session.read_messages()
    assert received == bulk
    assert len(session._sealed) == LARGE_BUFFER
    for number in range(SMALL_READS):
        wire.send(b"%d" % number)
        assert await session.read_messages() == [b"%d" % number]
    assert len(session._sealed) == FIRST_BUFFER
    wire.send(*bulk)
    assert await session.read_messages() == bulk[:1], "and what comes next is read as before"
