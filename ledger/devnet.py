"""A development chain for demos and tests: Anvil, or Hardhat's node. Knows no contract.

The chain dies with its parent, is capped in memory, and only its own process is ever ended.
"""

import contextlib
import gzip
import os
import re
import subprocess
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from eth_account import Account
from eth_account.signers.local import LocalAccount

from ledger.chain import Chain, connect
from ledger.engines import DevnetOptions, command_for, limits_for
from ledger.errors import DevnetError

__all__ = ["MNEMONIC", "Devnet", "DevnetOptions"]

MNEMONIC = "test test test test test test test test test test test junk"
"""The one that Anvil and Hardhat use by default: its keys are public, so never send real ether to them."""

_READY = re.compile(r"(?:Listening on|JSON-RPC server at) (?:http://)?([\d.]+):(\d+)")
_WILD = "0.0.0.0"  # noqa: S104 - compared with, not listened on


class Devnet:
    """A chain that lives as long as its `with` block: `url`, `chain_id`, funded `accounts` with their keys.

    Raises:
        DevnetError: the engine is unknown or not installed, the port is in use, or it does not come up.

    """

    def __init__(self, options: DevnetOptions = DevnetOptions(), patience: float = 30.0) -> None:  # noqa: B008 - frozen
        self.options = options
        self.url = ""
        self.chain_id = options.chain_id
        self._patience = patience
        self._tail: deque[str] = deque(maxlen=80)
        self._up = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._runner: threading.Thread | None = None
        self._failure: DevnetError | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
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
        # Linux ends the child when the *thread* that forked it ends: so one thread forks, and drains to the end
        self._runner = threading.Thread(target=self._run, name="devnet", daemon=True)
        self._runner.start()
        came_up = self._up.wait(self._patience)
        if self._failure:
            raise self._failure
        if not came_up or not self.url:
            self.stop()
            said = next((line for line in self._tail if "error" in line.lower()), "".join(self._tail) or "nothing")
            where = f"{self.options.host}, port {self.options.port or 'any'}"
            raise DevnetError(
                f"{self.options.engine} did not start on {where}: it said {said.strip()[-200:]!r}; try another port"
            )
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
        self.connect().rpc.call(f"{self.options.engine}_setBalance", address, hex(int(ether * 10**18)))

    def mine(self, blocks: int = 1) -> None:
        """Mines blocks at once."""
        self.connect().rpc.call(f"{self.options.engine}_mine", hex(blocks))

    def save(self, path: Path, timeout: float = 120.0) -> None:
        """Writes the state, logs included, for `DevnetOptions.load`; all of it or nothing (Anvil only).

        Anvil's own `--state` loses everything since its last dump with a kill, and a kill in mid-dump leaves an
        empty file.
        """
        state = gzip.decompress(self.connect(timeout).raw("anvil_dumpState"))
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.write_bytes(state)
        os.replace(unfinished, path)

    def _run(self) -> None:
        try:
            with command_for(self.options) as (command, folder, environment):
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    cwd=folder,
                    env=os.environ | environment,
                    preexec_fn=limits_for(self.options.engine),
                )
                self._drain(self._process)
        except DevnetError as error:
            self._failure = error
        except OSError as error:
            self._tail.append(str(error))
        self._up.set()

    def _drain(self, process: "subprocess.Popen[str]") -> None:
        """Reads to the end, or the pipe fills up and the chain stands still."""
        assert process.stdout is not None
        with process.stdout as lines, contextlib.suppress(ValueError):
            for line in lines:
                self._tail.append(line)
                found = _READY.search(line)
                if found and not self.url:
                    host = "127.0.0.1" if found[1] == _WILD else found[1]
                    self.url = f"http://{host}:{found[2]}"
                    self._up.set()
        process.wait()
