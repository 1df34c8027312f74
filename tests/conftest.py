import warnings

import pytest

with warnings.catch_warnings():  # libraries that warn when they are imported
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401
    import web3  # noqa: F401

from ledger import Devnet, DevnetOptions


@pytest.fixture(scope="session")
def chain():
    """A real Anvil on which gas is free, one block a second as in production."""
    with Devnet(
        DevnetOptions(block_time=0.5, extra=("--base-fee", "0", "--gas-price", "0", "--disable-min-priority-fee"))
    ) as devnet:
        yield devnet
