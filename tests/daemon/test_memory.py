"""Freed memory goes back to the system: measured from the outside, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux says it")

MODELS = """
import sys, threading
from torch import nn
from node.daemon.memory import give_back_freed_memory
from node.learning.task import Task, prepare

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

def deep():
    return nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(16)])

def start():
    before = anonymous()
    prepare(task)
    learner = prepare(task).without_numbers()
    learner.initial()
    kept.append(learner.initial())
    print((anonymous() - before) / learner.spec.payload_size)

kept, task = [], Task("deep", deep, data=None)
if sys.argv[1] == "first":
    give_back_freed_memory()
thread = threading.Thread(target=start)
thread.start()
thread.join()
"""


@pytest.mark.real
def test_models_made_and_forgotten_at_the_start_leave_no_memory_behind():
    command = [sys.executable, "-c", MODELS, "first"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 1.3, "the one that is kept, and no second one"


BUFFERS = """
import trio
from node.daemon.memory import keep_trimming

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

async def main():
    before = anonymous()
    buffers, small = [], []
    for _ in range(1000):
        buffers.append(bytearray(100_000))
        small.append(bytearray(1000))
    buffers.clear()
    kept = anonymous() - before
    with trio.move_on_after(1):
        await keep_trimming()
    print(kept, anonymous() - before)

trio.run(main)
"""


@pytest.mark.real
def test_what_lies_free_between_small_objects_goes_back():
    done = subprocess.run([sys.executable, "-c", BUFFERS], capture_output=True, text=True, timeout=120, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 80_000_000, "freed, and not given back by itself"
    assert left < 20_000_000
