"""A node that adds snapshots until it is killed: `python -m tests.storage.adder HOME [BYTES ALLOWED IN A FILE]`.

It prints a line before each add begins and the CID after each that was reported as done.
"""

import os
import resource
import sys
from pathlib import Path

import trio

from node.errors import StorageError
from node.storage import open_snapshots


async def add_for_ever(home):
    async with open_snapshots(home) as snapshots:
        while True:
            print("adding", flush=True)
            files = {"update": os.urandom(3 << 20), "mixed.safetensors": os.urandom(1 << 20)}
            try:
                print(await snapshots.add(files), flush=True)
            except StorageError as error:
                sys.exit(str(error))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    trio.run(add_for_ever, Path(sys.argv[1]))
