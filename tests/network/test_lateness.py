"""Training must not stall the network: the event loop's lateness while a CNN trains in a worker thread."""

import os
import threading

import pytest
import torch
import trio

from tests.network.members import Shelf, identity, meet, member

SECONDS = 10


def train(stop: threading.Event) -> int:
    """Steps of a small CNN until told to stop."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 12 * 12, 10),
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images, labels, steps = torch.rand(64, 1, 28, 28), torch.randint(0, 10, (64,)), 0
    while not stop.is_set():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        steps += 1
    return steps


@pytest.mark.slow
async def test_the_loop_is_on_time_while_a_cnn_trains_and_payloads_move():
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    shelf, stop = Shelf(identity("alice")), threading.Event()
    announcement = shelf.put(os.urandom(4 << 20), 1)
    try:
        async with member("alice", shelf=shelf) as alice, member("bob", alice.addresses()) as bob:
            await meet(alice, bob)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, train, stop)
                with trio.move_on_after(SECONDS):
                    while True:
                        await bob.fetch(announcement, [alice.peer_id], trio.current_time() + 20)
                        await trio.sleep(0.1)
                stop.set()
            print(alice.lateness())
            assert alice.lateness().p99 < 0.05
    finally:
        torch.set_num_threads(threads)
