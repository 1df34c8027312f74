"""A sealed session: members and an auditor with the key read its snapshots, the public sees only ciphertext."""

import hashlib
import json
import shutil
import signal

import pytest
from click.testing import CliRunner

from ledger import load_keystore
from node.cli.app import cli
from node.storage import new_session_key
from node.storage.session_key import format_key
from tests.nodes import PASSPHRASE, NodeProcess, make_home, make_session, running, start_all

pytestmark = [pytest.mark.real, pytest.mark.slow]


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments), "--json"])


def answer(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_members_and_an_auditor_with_the_key_read_what_nobody_else_does(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]
    session = tmp_path / "session.toml"
    opened = make_session(
        homes[0], chain, session, rounds=100_000, quorum=2, snapshot_every=1, admitted=True, sealed=True
    )
    creator = load_keystore(homes[0].keystore, PASSPHRASE)
    accounts = [load_keystore(home.keystore, PASSPHRASE).address for home in homes[1:]]
    opened.ledger.admit(creator, opened.session_id, accounts)
    nodes = start_all(homes[:2], session)
    with running(nodes):
        nodes[1].wait_for(lambda status: status.get("finished_rounds"), 180)
        nodes.append(NodeProcess(homes[2], session, "--no-mdns", "--peers", nodes[0].address()))  # comes late
        nodes[2].wait_for(lambda status: len(status.get("finished_rounds", [])) >= 2, 180)
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.end(120)[0] for node in nodes] == [0, 0, 0]
    key = homes[0].session_key(opened.session_id)
    for home in homes:
        assert home.session_key(opened.session_id).read_bytes() == key.read_bytes()
        assert home.session_key(opened.session_id).stat().st_mode & 0o777 == 0o600
    assert "a member gave the session's key" in nodes[1].log.read_text()

    with_key = answer("audit", "--session", session, "--session-key", key)
    assert (with_key["clean"], with_key["faults"]) == (True, [])
    assert with_key["steps_replayed"] == with_key["steps_total"] > 12
    without = run("audit", "--session", session)
    assert without.exit_code == 2
    report = json.loads(without.stdout.strip().splitlines()[-1])
    assert (report["steps_replayed"], report["faults"]) == (0, [])
    (tmp_path / "other.key").write_bytes(format_key(new_session_key()))
    wrong = run("audit", "--session", session, "--session-key", tmp_path / "other.key")
    assert (wrong.exit_code, "not this session's" in wrong.output) == (2, True)

    row = next(row for row in answer("snapshot", "list", "--home", homes[1].path)["snapshots"] if row["round"] == 3)
    shutil.copytree(homes[1].ipfs, tmp_path / "public" / "ipfs")  # what an IPFS peer could have
    reader = ("--home", tmp_path / "public")
    answer("snapshot", "get", row["cid"], *reader, "--out", tmp_path / "sealed")
    answer("snapshot", "get", row["cid"], *reader, "--out", tmp_path / "plain", "--session-key", key)
    sealed, plain = ((tmp_path / name / "mixed.safetensors").read_bytes() for name in ("sealed", "plain"))
    records = answer("history", "--session", session)["records"]
    recorded = next(one for one in records if (one["member"], one["round"]) == (row["member"], 3))
    assert hashlib.sha256(plain).hexdigest() == recorded["mixed_hash"].removeprefix("0x")
    assert sealed.startswith(b"fl-node/sealed/1")
    assert plain[8:200] not in sealed


def test_a_member_that_waits_for_the_key_can_be_stopped(chain, tmp_path):
    """With nobody there to give it, for up to --quorum-timeout; `fl-node stop` waits for less than that."""
    alice, bob = (make_home(tmp_path / name) for name in ("alice", "bob"))
    session = tmp_path / "session.toml"
    opened = make_session(alice, chain, session, members=2, quorum=2, admitted=True, sealed=True)
    account = load_keystore(bob.keystore, PASSPHRASE).address
    opened.ledger.admit(load_keystore(alice.keystore, PASSPHRASE), opened.session_id, [account])
    node = NodeProcess(bob, session, "--no-mdns")
    with running([node]):
        node.wait_for(lambda _: "waiting for a member who gives its key" in node.log.read_text())
        assert answer("stop", "--home", bob.path, "--timeout", 20) == {"stopped": True, "was_running": True}
        code, said = node.end(5)
    assert (code, said["stopped"], said["finished_round"]) == (0, True, None)
    assert "Traceback" not in bob.path.joinpath("node.log").read_text()


def test_a_sealed_session_that_anybody_could_join_is_refused(chain, tmp_path):
    home = make_home(tmp_path / "alice")
    arguments = ("--task", "mnist-softmax", "--rpc", chain.url, "--out", tmp_path / "session.toml", "--sealed")
    refused = CliRunner().invoke(
        cli, [*map(str, ("session", "create", "--home", home.path, *arguments))], env={"FL_NODE_PASSPHRASE": PASSPHRASE}
    )
    assert refused.exit_code == 2
    assert "--sealed without --admitted" in refused.stderr
