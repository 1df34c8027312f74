"""`fl-node devnet`: a chain for development, here and now."""

import signal
import threading

import click

from ledger import Devnet, DevnetOptions
from node.cli.options import Seconds
from node.cli.result import Result, answers, note


@click.command()
@click.option("--engine", type=click.Choice(["anvil", "hardhat"]), default="anvil", show_default=True)
@click.option("--port", default=8545, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--chain-id", default=31337, show_default=True, type=click.IntRange(1))
@click.option(
    "--block-time", default=1.0, show_default=True, type=Seconds(), help="Seconds per block; 0 mines at once."
)
@click.option("--fees", is_flag=True, help="Gas costs something, so accounts need funds.")
@answers
def devnet(engine: str, port: int, host: str, chain_id: int, block_time: float, fees: bool) -> Result:
    """Run a local Ethereum chain until Ctrl-C. Gas is free on it, so that accounts need no funds.

    \b
    Example: fl-node devnet --port 8545
    """
    options = DevnetOptions(engine, port, chain_id, block_time, free_gas=not fees, host=host)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Devnet(options) as chain:
        note(f"{engine} at {chain.url}, chain {chain.chain_id}; Ctrl-C ends it, and everything on it is forgotten")
        if not fees:
            note("gas is free here: accounts need no funds")
        ended.wait()
    return Result({"url": chain.url, "chain_id": chain.chain_id}, "the chain has ended")
