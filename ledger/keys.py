"""Ethereum accounts in encrypted keystore files (version 3); knows no chain, asks nobody for passphrases."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson
from eth_account import Account
from eth_account.signers.local import LocalAccount

from ledger.errors import KeystoreError, WrongPassphrase

SCRYPT_COST = 2**17
"""Of scrypt's N (r = 8, p = 1): about 0.4 s and 128 MiB a try, as OWASP's password storage sheet asks for."""

_LONGEST_FILE = 64 * 1024
_LARGEST_COST = 2**20  # a keystore asks for 128 bytes × N × r of memory: refuse one that would exhaust ours


def create_keystore(path: Path, passphrase: str, cost: int = SCRYPT_COST) -> str:
    """The checksummed address of a new account, whose encrypted key is in the new file `path` (mode 0600).

    Raises:
        KeystoreError: `path` exists (a key is never overwritten) or can't be written, or the passphrase is empty.

    """
    account = Account.create()
    save_keystore(path, account, passphrase, cost)
    return str(account.address)


def save_keystore(path: Path, account: LocalAccount, passphrase: str, cost: int = SCRYPT_COST) -> None:
    """Writes the account's encrypted key to the new file `path`, completely or not at all.

    Raises:
        KeystoreError: `path` exists or can't be written, or the passphrase is empty.

    """
    if not passphrase:
        raise KeystoreError("the passphrase is empty: choose one, it is all that protects the key on disk")
    if path.exists():
        raise KeystoreError(f"{path} exists and a key is never overwritten: choose another file, or move it away")
    _write(path, Account.encrypt(account.key, passphrase, kdf="scrypt", iterations=cost), os.link)


def change_passphrase(path: Path, old: str, new: str, cost: int = SCRYPT_COST) -> str:
    """The address of the account in `path`, which from now on opens with the passphrase `new`.

    Whatever happens, the file is the old one or the new one, whole. The new one was opened before it took the place.

    Raises:
        WrongPassphrase: `old` does not open it.
        KeystoreError: there is no such file, it is no keystore or can't be written, or `new` is empty.

    """
    if not new:
        raise KeystoreError("the new passphrase is empty: choose one, it is all that protects the key on disk")
    account = load_keystore(path, old)
    secret = Account.encrypt(account.key, new, kdf="scrypt", iterations=cost)
    if bytes(Account.decrypt(secret, new)) != bytes(account.key):
        raise KeystoreError(f"the new keystore does not give the key back, {path} stays as it is: try again")
    _write(path, secret, os.replace)
    return str(account.address)


def load_keystore(path: Path, passphrase: str) -> LocalAccount:
    """The account whose key the file holds.

    Raises:
        WrongPassphrase: the passphrase does not open it.
        KeystoreError: there is no such file, or it is no keystore.

    """
    secret = _read(path)
    try:
        key = Account.decrypt(secret, passphrase)
    except ValueError as error:
        if "MAC mismatch" not in str(error):
            raise KeystoreError(f"{path} is damaged ({error}): restore it from a backup") from error
        raise WrongPassphrase(f"the passphrase does not open {path}: check it, there is no way around it") from error
    except (KeyError, TypeError, NotImplementedError) as error:
        raise KeystoreError(f"{path} is no keystore (version 3): {error!r}; restore it from a backup") from error
    return Account.from_key(key)


def _read(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise KeystoreError(f"{path} has {path.stat().st_size} bytes: a keystore has a few hundred, check the path")
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise KeystoreError(f"the keystore {path} can't be read: {error.strerror}; create one with init") from error
    except ValueError as error:
        raise KeystoreError(f"{path} is no keystore (not JSON): restore it from a backup") from error
    if not isinstance(found, dict):
        raise KeystoreError(f"{path} is no keystore (not a JSON object): restore it from a backup")
    _check_cost(path, found)
    return found


def _check_cost(path: Path, found: dict[str, object]) -> None:
    """A hostile file must not keep us busy for a year, nor take all memory."""
    crypto = found.get("crypto", found.get("Crypto"))
    params = crypto.get("kdfparams") if isinstance(crypto, dict) else None
    if not isinstance(params, dict):
        raise KeystoreError(f"{path} is no keystore (no crypto.kdfparams): restore it from a backup")
    numbers = {name: params.get(name, 1) for name in ("n", "r", "p", "c", "dklen")}
    if not all(isinstance(one, int) and 0 < one <= _LARGEST_COST * 8 for one in numbers.values()):
        raise KeystoreError(f"{path} asks for a key derivation with {numbers}: restore it from a backup")
    if numbers["n"] * numbers["r"] * numbers["p"] > _LARGEST_COST * 8:
        raise KeystoreError(f"{path} asks for scrypt with {numbers}, too much memory: restore it from a backup")


def _write(path: Path, secret: object, put: Callable[[str, Path], object]) -> None:
    """Writes beside the path, then puts it there (a link: never over another one): never half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:  # mkstemp makes it 0600
                file.write(json.dumps(secret).encode())
                file.flush()
                os.fsync(file.fileno())
            put(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeystoreError(f"the keystore {path} can't be written: {error.strerror}; check the folder") from error
