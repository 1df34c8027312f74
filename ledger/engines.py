"""The two programs that can be a development chain: where they are, how they are told what to be. Starts nothing."""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ledger.errors import DevnetError

ENGINES = ("anvil", "hardhat")
MEMORY = 8 << 30
"""Bytes of address space that Anvil may have: flooded in automine it was seen to grow to 24 GB."""

_BLOCK_GAS = 1_000_000_000
_KEPT_STATES = 128  # blocks back that can still be asked for state, in memory
_HEAP_MIB = 4096  # Hardhat's: V8 reserves address space at will, so that RLIMIT_AS is no measure for it
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)
_ANVIL_PACKAGES = "@foundry-rs/anvil-*/bin/anvil"
_HARDHAT_CLI = Path("hardhat/internal/cli/cli.js")


@dataclass(frozen=True, slots=True)
class DevnetOptions:
    """How the chain is to be.

    Args:
        engine: "anvil" or "hardhat".
        port: 0 takes a free one.
        chain_id: what it answers to eth_chainId.
        block_time: seconds per block; 0 mines each transaction at once.
        accounts: with ether from the start.
        extra: further arguments for Anvil.
        free_gas: transactions cost nothing, so that accounts need no ether.
        host: the address to listen on; 0.0.0.0 for a chain that other machines use.
        load: a state that `Devnet.save` wrote, to go on from (Anvil only).

    """

    engine: str = "anvil"
    port: int = 0
    chain_id: int = 31337
    block_time: float = 1.0
    accounts: int = 10
    extra: tuple[str, ...] = field(default=())
    free_gas: bool = False
    host: str = "127.0.0.1"
    load: Path | None = None


@contextlib.contextmanager
def command_for(options: DevnetOptions) -> Iterator[tuple[list[str], Path | None, dict[str, str]]]:
    """The command line, its working folder (None: ours) and what it needs in its environment; removes the folder after.

    Raises:
        DevnetError: the engine is unknown or not installed.

    """
    if options.engine == "anvil":
        yield _anvil_command(options), None, {}
    elif options.engine == "hardhat":
        with tempfile.TemporaryDirectory(prefix="fl-devnet-") as folder:
            yield _hardhat_command(options, Path(folder)), Path(folder), {"HARDHAT_DISABLE_TELEMETRY_PROMPT": "true"}
    else:
        raise DevnetError(f"{options.engine!r} is no devnet engine: use {' or '.join(ENGINES)}")


def find_anvil() -> str:
    """Where Anvil is: npm's platform package (its meta package only wraps the real one), else PATH.

    Raises:
        DevnetError: there is none.

    """
    for modules in _module_folders():
        for found in sorted(modules.glob(_ANVIL_PACKAGES)):
            if os.access(found, os.X_OK):
                return str(found)
    found_on_path = shutil.which("anvil")
    if found_on_path is None:
        cure = "run `npm ci --ignore-scripts` in a checkout, or install Foundry (https://getfoundry.sh)"
        raise DevnetError(f"Anvil is neither in node_modules nor on PATH: {cure}")
    return found_on_path


def _module_folders() -> list[Path]:
    """The working directory's, then the one beside the package's repository."""
    folders = [Path.cwd() / "node_modules", Path(__file__).resolve().parent.parent / "node_modules"]
    return [folder for folder in folders if folder.is_dir()]


def _anvil_command(options: DevnetOptions) -> list[str]:
    values = {
        "--host": options.host,
        "--port": options.port,
        "--chain-id": options.chain_id,
        "--accounts": options.accounts,
        "--gas-limit": _BLOCK_GAS,
        "--order": "fifo",
    }
    command = [find_anvil(), *(part for name, value in values.items() for part in (name, str(value)))]
    command += ["--prune-history", str(_KEPT_STATES)]  # else it leaves a full state file per block in the home
    if options.block_time:
        command += ["--block-time", f"{options.block_time:g}"]
    if options.free_gas:
        command += ["--base-fee", "0", "--gas-price", "0", "--disable-min-priority-fee"]
    if options.load:
        command += ["--load-state", str(options.load)]
    return [*command, *options.extra]


def _hardhat_command(options: DevnetOptions, folder: Path) -> list[str]:
    """Hardhat wants a project of its own, which finds Hardhat by its node_modules."""
    node = shutil.which("node")
    modules = next((one for one in _module_folders() if (one / _HARDHAT_CLI).is_file()), None)
    if node is None or modules is None:
        missing = "Node.js is not on PATH" if node is None else "Hardhat is not in node_modules"
        raise DevnetError(f"{missing}: install Node.js 20 or newer and run `npm ci --ignore-scripts`, or use Anvil")
    if options.load or options.extra:
        raise DevnetError("Hardhat takes no saved state and no further arguments: use --engine anvil for these")
    (folder / "node_modules").symlink_to(modules)
    network = {
        "chainId": options.chain_id,
        "blockGasLimit": _BLOCK_GAS,
        "accounts": {"count": options.accounts},
        "mining": {"auto": not options.block_time, "interval": int(options.block_time * 1000)},
    }
    if options.free_gas:
        network |= {"initialBaseFeePerGas": 0, "gasPrice": 0}
    config = {"solidity": "0.8.37", "networks": {"hardhat": network}}
    (folder / "hardhat.config.js").write_text(f"module.exports = {json.dumps(config)};\n")
    heap = f"--max-old-space-size={_HEAP_MIB}"
    return [node, heap, str(modules / _HARDHAT_CLI), "node", "--hostname", options.host, "--port", str(options.port)]


def limits_for(engine: str) -> Callable[[], None]:
    """What the child does before it becomes the engine: dies with its parent, and can't eat the machine's memory."""
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None) if linux else None  # loaded here: a child of threads must not load libraries
    parent = os.getpid()

    def limit() -> None:
        if libc is not None:
            libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)
            if engine == "anvil":
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if os.getppid() != parent:  # it ended in between, and nobody would tell us
            os._exit(1)

    return limit
