"""A chain for other hosts: `python -m tests.faults.chain_host STATE`; `save` on standard input writes STATE and ends.

It goes on from STATE if that exists.
"""

import sys
from pathlib import Path

from ledger import Devnet, DevnetOptions

if __name__ == "__main__":
    state = Path(sys.argv[1])
    options = DevnetOptions(block_time=1.0, free_gas=True, host="0.0.0.0", port=8545)
    if state.exists():
        options = DevnetOptions(block_time=1.0, free_gas=True, host="0.0.0.0", port=8545, load=state)
    with Devnet(options) as chain:
        print(chain.url, flush=True)
        if sys.stdin.readline() == "save\n":
            chain.save(state)
