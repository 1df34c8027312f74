"""No key and no passphrase is in what a node says: its log, even the most verbose one, its output, status, metrics."""

import base64
import json
import subprocess
import sys
import urllib.parse
import urllib.request

import base58
import pytest

from ledger import load_keystore
from node.network.identity import load_identity
from tests.nodes import PASSPHRASE, NodeProcess, make_home, make_session, running

pytestmark = pytest.mark.real


def spellings(secret: bytes) -> set[str]:
    """How bytes usually look in text. In base64 they may begin anywhere in what was encoded: all three ways."""
    shifted = [base64.b64encode(bytes(shift) + secret).decode() for shift in range(3)]
    inner = {text[4 * bool(shift) : -4] for shift, text in enumerate(shifted)}
    numbers = ", ".join(map(str, secret))
    found = {secret.hex(), str(int.from_bytes(secret, "big")), str(int.from_bytes(secret, "little")), numbers}
    found |= {repr(secret)[2:-1], base58.b58encode(secret).decode(), numbers.replace(" ", "")} | inner
    return found | {text.replace("+", "-").replace("/", "_") for text in inner}


def leaks(text: str, secrets: dict[str, bytes], words: tuple[str, ...] = (PASSPHRASE,)) -> set[str]:
    """The names of the secrets that are in `text`, in whatever case."""
    low = text.lower()
    said = {name for name, secret in secrets.items() if any(one.lower() in low for one in spellings(secret))}
    return said | {word for word in words if word in text or urllib.parse.quote(word) in text}


def secrets_of(home) -> dict[str, bytes]:
    return {
        "libp2p": load_identity(home.identity).private_key,
        "account": bytes(load_keystore(home.keystore, PASSPHRASE).key),
    } | {path.name: path.read_bytes()[-32:] for path in home.path.glob("noise.key")}


def test_the_search_finds_a_key_in_every_spelling():
    secret = bytes(range(200, 232))
    for shift in range(3):
        longer = b"x" * shift + secret + b"more"
        for text in (base64.b64encode(longer).decode(), base64.urlsafe_b64encode(longer).decode().rstrip("=")):
            assert leaks(f"key={text}", {"it": secret}) == {"it"}
    for text in (
        secret.hex().upper(),
        f"0x{secret.hex()}",
        repr(secret),
        str(list(secret)),
        str(int(secret.hex(), 16)),
    ):
        assert leaks(text, {"it": secret}) == {"it"}
    assert leaks(f"the passphrase is {PASSPHRASE}!", {}) == {PASSPHRASE}
    assert leaks("nothing of it " + secret[:16].hex(), {"it": secret}) == set()


def test_no_key_is_in_what_nodes_leave_behind(finished_run):
    for home, answer in zip(finished_run.homes, finished_run.answers, strict=True):
        said = (home.path / "node.log").read_text() + home.status.read_text() + json.dumps(answer)
        assert "peer" in said
        assert leaks(said, secrets_of(home)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_key_is_in_what_a_node_says_at_its_most_verbose(chain, tmp_path, form):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob")]
    path = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, path, members=2, quorum=2, rounds=2, admitted=True, sealed=True)
    creator = load_keystore(homes[0].keystore, PASSPHRASE)
    opened.ledger.admit(creator, opened.session_id, [load_keystore(homes[1].keystore, PASSPHRASE).address])
    loud = ("-vv", "--log-format", form)
    first = NodeProcess(homes[0], path, "--no-mdns", "--metrics-port", "0", logging=loud)
    with running([first]):
        second = NodeProcess(homes[1], path, "--no-mdns", "--peers", first.address(), logging=loud)
        with running([second]):
            url = first.wait_for(lambda status: status.get("metrics_url"))
            with urllib.request.urlopen(url) as response:
                page = response.read().decode()
            ends = [node.process.communicate(timeout=120)[0].decode() for node in (first, second)]
    command = [sys.executable, "-m", "node", "status", "--json", "--home", str(homes[0].path)]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    keys = {name: value for home in homes for name, value in secrets_of(home).items()}
    session_key = homes[0].session_key(opened.session_id).read_bytes()
    for home, end in zip(homes, ends, strict=True):
        log = (home.path / "node.log").read_text()
        assert "libp2p" in log
        said = log + end + page + status + home.status.read_text()
        assert leaks(said, secrets_of(home)) == set()
        assert leaks(said, keys) == set()
        assert session_key.decode().split()[-1] not in said
        if form == "json":
            assert [line for line in log.splitlines() if not line.startswith("{")] == []
            records = [json.loads(line) for line in log.splitlines()]
            assert len(records) > 100
            assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
