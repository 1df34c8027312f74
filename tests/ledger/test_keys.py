import contextlib
import errno
import json
import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account

from ledger import KeystoreError, WrongPassphrase, change_passphrase, create_keystore, load_keystore
from ledger.keys import SCRYPT_COST

CHEAP = 2**4
ROOT = Path(__file__).parent.parent.parent


def test_a_key_comes_back_with_its_passphrase(tmp_path):
    address = create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    assert load_keystore(tmp_path / "key.json", "correct horse").address == address


def test_a_wrong_passphrase_says_so_and_names_neither_passphrase_nor_key(tmp_path):
    create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    with pytest.raises(WrongPassphrase, match=r"does not open .*key\.json") as caught:
        load_keystore(tmp_path / "key.json", "battery staple")
    assert "battery" not in str(caught.value)


def test_only_the_owner_can_read_the_file(tmp_path):
    old = os.umask(0)
    try:
        create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["key.json"]


def test_a_key_is_never_overwritten(tmp_path):
    create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    before = (tmp_path / "key.json").read_bytes()
    with pytest.raises(KeystoreError, match="never overwritten"):
        create_keystore(tmp_path / "key.json", "another", CHEAP)
    assert (tmp_path / "key.json").read_bytes() == before


def test_an_empty_passphrase_is_refused(tmp_path):
    with pytest.raises(KeystoreError, match="passphrase is empty"):
        create_keystore(tmp_path / "key.json", "", CHEAP)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeystoreError, match="can't be written"):
        create_keystore(tmp_path / "file" / "key.json", "correct horse", CHEAP)


def test_the_file_is_one_that_other_programs_read(tmp_path):
    address = create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    secret = json.loads((tmp_path / "key.json").read_text())
    assert secret["version"] == 3
    assert secret["crypto"]["kdf"] == "scrypt"
    assert Account.from_key(Account.decrypt(secret, "correct horse")).address == address


def test_the_default_cost_is_what_owasp_asks_for():
    assert SCRYPT_COST >= 2**17


def altered(**crypto):
    def alter(secret):
        secret["crypto"].update(crypto)

    return alter


def costly(**parameters):
    def alter(secret):
        secret["crypto"]["kdfparams"].update(parameters)

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        costly(n=2**40),
        costly(r=2**20),
        costly(p=2**20, n=2**10),
        costly(n=-1),
        costly(n="many"),
        costly(n=True),
        costly(salt="not hexadecimal"),
        altered(kdfparams=None),
        altered(kdf="md5"),
        altered(ciphertext=17),
        altered(mac="zz"),
        altered(kdf="pbkdf2", kdfparams={"c": 2**60, "dklen": 32, "prf": "hmac-sha256", "salt": "00"}),
        altered(kdf="pbkdf2", kdfparams={"c": 2**30, "dklen": 32, "prf": "hmac-sha256", "salt": "00"}),
        altered(kdf="pbkdf2", kdfparams={"c": 1, "dklen": 2**60, "prf": "hmac-sha256", "salt": "00"}),
        lambda secret: secret.pop("crypto"),
        lambda secret: secret.update(version=1),
        lambda secret: secret["crypto"].pop("cipherparams"),
    ],
)
def test_a_damaged_or_hostile_keystore_is_one_clear_error(alter, tmp_path):
    create_keystore(tmp_path / "key.json", "correct horse", CHEAP)
    secret = json.loads((tmp_path / "key.json").read_text())
    alter(secret)
    (tmp_path / "key.json").write_text(json.dumps(secret))
    with pytest.raises(KeystoreError, match=r"key\.json"):
        load_keystore(tmp_path / "key.json", "correct horse")


@pytest.mark.parametrize("content", [b"", b"hello", b"[]", b"{}", b"null", b'"' * 100_000, b"\xff\xfe", b"[" * 60_000])
def test_a_file_that_is_no_keystore_is_one_clear_error(content, tmp_path):
    (tmp_path / "key.json").write_bytes(content)
    with pytest.raises(KeystoreError, match=r"key\.json"):
        load_keystore(tmp_path / "key.json", "correct horse")


def test_a_missing_keystore_says_how_to_get_one(tmp_path):
    with pytest.raises(KeystoreError, match=r"can't be read: No such file or directory; create one with init"):
        load_keystore(tmp_path / "key.json", "correct horse")


def test_a_passphrase_is_changed_and_the_key_stays(tmp_path):
    path = tmp_path / "key.json"
    address = create_keystore(path, "correct horse", CHEAP)
    assert change_passphrase(path, "correct horse", "battery staple", CHEAP) == address
    assert load_keystore(path, "battery staple").address == address
    with pytest.raises(WrongPassphrase):
        load_keystore(path, "correct horse")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["key.json"]


@pytest.mark.parametrize(("old", "new", "words"), [("wrong", "b", "does not open"), ("a", "", "is empty")])
def test_a_change_that_is_refused_leaves_the_file_as_it_was(tmp_path, old, new, words):
    path = tmp_path / "key.json"
    create_keystore(path, "a", CHEAP)
    before = path.read_bytes()
    with pytest.raises(KeystoreError, match=words):
        change_passphrase(path, old, new, CHEAP)
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_change_that_the_disk_refuses_leaves_the_file_as_it_was(tmp_path, monkeypatch, call):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "key.json"
    create_keystore(path, "a", CHEAP)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"ledger.keys.os.{call}", full)
        with pytest.raises(KeystoreError, match="No space left"):
            change_passphrase(path, "a", "b", CHEAP)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["key.json"]


CHANGES = """
import sys
from pathlib import Path
from ledger import change_passphrase
path, old, new = Path(sys.argv[1]), "a", "b"
print("ready", flush=True)
while True:
    change_passphrase(path, old, new, 2)
    old, new = new, old
"""


@pytest.mark.real
def test_whoever_is_killed_while_changing_it_has_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "key.json"
    for after_s in (0.0, 0.011, 0.023, 0.037, 0.051, 0.0):
        path.unlink(missing_ok=True)
        address, opened_by = create_keystore(path, "a", CHEAP), set()
        with subprocess.Popen([sys.executable, "-c", CHANGES, path], stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout.readline() == b"ready\n"
            select.select([], [], [], after_s)
            child.kill()
        for passphrase in ("a", "b"):
            with contextlib.suppress(WrongPassphrase):
                assert load_keystore(path, passphrase).address == address
                opened_by.add(passphrase)
        assert len(opened_by) == 1
