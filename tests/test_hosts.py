"""The hosts in network namespaces that other tests stand on: what their switch does to real packets."""

import subprocess
import sys
import time

import pytest

from tests.hosts import hosts

pytestmark = pytest.mark.real

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
    port.bind(("0.0.0.0", 7))
    print("up", flush=True)
    while True:
        said, who = port.recvfrom(2000)
        port.sendto(said, who)
"""
ASK = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
    port.settimeout(0.3)
    port.connect((sys.argv[1], 7))
    times = []
    for _ in range(int(sys.argv[2])):
        start = time.monotonic()
        try:
            port.send(b"?")
            port.recv(2000)
            times.append(time.monotonic() - start)
        except OSError:
            pass
print(len(times), min(times, default=0))
"""
SINK = """
import socket
with socket.create_server(("0.0.0.0", 9)) as server:
    print("up", flush=True)
    connection, _ = server.accept()
    size = 0
    while said := connection.recv(65536):
        size += len(said)
    print(size)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 9)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


def server(made, name, code):
    child = subprocess.Popen(made.inside(name, sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    return child


def answers(made, source, target, count=4):
    """How many of so many questions were answered, and the fastest answer's seconds."""
    command = made.inside(source, sys.executable, "-c", ASK, made.address(target), str(count))
    heard, fastest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(heard), float(fastest)


def test_a_wire_delays_loses_and_divides_as_it_is_told():
    with hosts("alice", "bob", "carol") as made:
        echo = server(made, "bob", ECHO)
        try:
            assert answers(made, "alice", "bob")[0] == 4
            made.wire(["alice"], ["bob"], delay=0.1)
            assert answers(made, "alice", "bob")[1] > 0.1
            made.wire(["alice"], ["bob"], loss=1.0)  # one way only
            assert answers(made, "alice", "bob", 1)[0] == 0
            assert answers(made, "carol", "bob")[0] == 4
            made.heal()
            assert answers(made, "alice", "bob")[0] == 4
            made.wire(["alice"], ["bob"], loss=0.5)
            assert 0 < answers(made, "alice", "bob", 16)[0] < 16
        finally:
            echo.kill()
            echo.wait()
            echo.stdout.close()


def test_a_wire_has_a_rate_and_arrives_whole():
    with hosts("alice", "bob") as made:
        for rate, size in ((0, 5_000_000), (125_000, 250_000)):
            made.link("alice", rate=rate)
            sink = server(made, "bob", SINK)
            start = time.monotonic()
            subprocess.run(made.inside("alice", sys.executable, "-c", SEND, made.address("bob"), str(size)), check=True)
            assert int(sink.communicate(timeout=30)[0]) == size
            if rate:
                assert 0.7 * size / rate < time.monotonic() - start < 4 * size / rate
