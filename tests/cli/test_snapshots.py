"""`fl-node snapshot`: the embedded store of nodes that have finished, the real ledger, and a real Kubo core."""

import hashlib
import json
import shutil

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from node.storage import format_key, new_session_key
from node.storage.cid import parse_cid
from tests.nodes import NodeProcess, make_home, make_session, running
from tests.storage.conftest import kubo_url  # noqa: F401

pytestmark = pytest.mark.real
NOWHERE = "http://127.0.0.1:9"


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in ("snapshot", *arguments)])


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def refusal(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture
def home(finished_run, tmp_path):
    """A copy of a finished node's home, to do with as one likes."""
    shutil.copytree(finished_run.homes[1].path, tmp_path / "bob")
    return tmp_path / "bob"


def by_round(home):
    return {each["round"]: each["cid"] for each in answer("list", "--home", home)["snapshots"]}


def test_a_home_lists_its_snapshots_and_which_the_ledger_names(finished_run, home):
    seen = answer("list", "--home", home)["snapshots"]
    member = {each["member"] for each in seen}
    assert len(member) == 1
    assert [(each["round"], each["whole"], each["recorded"]) for each in seen] == [(2, True, True), (4, True, True)]
    assert {each["session"] for each in seen} == {f"{finished_run.opened.session_id:016x}"}
    assert seen[0]["cid"] in run("list", "--home", home).stdout


def test_without_the_ledger_the_list_says_that_it_does_not_know(home):
    result = run("list", "--home", home, "--rpc", NOWHERE, "--json")
    assert [each["recorded"] for each in json.loads(result.stdout)["snapshots"]] == [None, None]
    assert "is not known" in result.stderr


def test_a_snapshot_is_shown_got_and_added_again_under_the_same_cid(home, tmp_path):
    cid = by_round(home)[4]
    shown = answer("show", cid, "--home", home)["files"]
    assert [file["name"] for file in shown] == ["mixed.safetensors", "update"]
    got = answer("get", cid, "--home", home, "--out", tmp_path / "out")
    contents = [(tmp_path / "out" / file["name"]).read_bytes() for file in shown]
    assert [hashlib.sha256(content).hexdigest() for content in contents] == [file["sha256"] for file in shown]
    assert got["bytes"] == sum(file["bytes"] for file in shown)
    assert "is there already" in refusal("get", cid, "--home", home, "--out", tmp_path / "out")
    shutil.rmtree(home / "ipfs")
    assert "missing or damaged" in refusal("show", cid, "--home", home)
    assert answer("add", tmp_path / "out", "--home", home)["cid"] == cid
    assert answer("show", cid, "--home", home)["files"] == shown


def test_what_is_larger_than_allowed_is_refused(home, tmp_path):
    refused = refusal("get", by_round(home)[4], "--home", home, "--out", tmp_path / "out", "--limit", "100B")
    assert "at most 100 are allowed" in refused
    assert not list((tmp_path / "out").glob("*"))
    assert "no number of bytes" in refusal("show", "x", "--home", home, "--limit", "much")


def test_what_the_ledger_names_is_released_only_by_force(home):
    cids = by_round(home)
    assert "the ledger names" in refusal("unpin", cids[2], "--home", home)
    assert answer("gc", "--home", home, "--keep-last", 1)["released"] == []
    assert "use --force" in refusal("gc", "--home", home, "--keep-last", 1, "--rpc", NOWHERE)
    assert list(by_round(home).values()) == list(cids.values())
    planned = answer("gc", "--home", home, "--keep-last", 1, "--force", "--dry-run")
    assert ([each["cid"] for each in planned["released"]], planned["bytes"]) == ([cids[2]], 0)
    assert by_round(home) == cids
    done = answer("gc", "--home", home, "--keep-last", 1, "--force")
    assert [each["cid"] for each in done["released"]] == [cids[2]]
    assert done["blocks"] == 3
    assert by_round(home) == {4: cids[4]}


def test_however_a_cid_is_written_the_same_rules_hold_for_it(home):
    cid = by_round(home)[2]
    other = base58(parse_cid(cid))
    assert "the ledger names" in refusal("unpin", other, "--home", home)
    assert answer("pin", other, "--home", home)["cid"] == cid
    assert "is not one that this node reads" in refusal("pin", "nonsense", "--home", home)
    assert answer("unpin", other, "--home", home, "--force")["cid"] == cid
    assert list(by_round(home)) == [4]


def base58(cid):
    """A CID as older tools print it; no byte in front is zero."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(cid, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = alphabet[digit] + text
    return f"z{text}"


def test_what_was_opened_with_a_sessions_key_is_sealed_again_under_its_cid(home, tmp_path):
    key = tmp_path / "session.key"
    key.write_bytes(format_key(new_session_key()))
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    (folder / "mixed.safetensors").write_bytes(b"a private model")
    cid = answer("add", folder, "--home", home, "--session-key", key)["cid"]
    blocks = [path.read_bytes() for path in (home / "ipfs").rglob("*.data")]
    assert not any(b"a private model" in block for block in blocks)
    assert answer("add", folder, "--home", home)["cid"] != cid
    answer("get", cid, "--home", home, "--out", out, "--session-key", key)
    assert (out / "mixed.safetensors").read_bytes() == b"a private model"
    assert answer("add", out, "--home", home, "--session-key", key)["cid"] == cid


def test_a_home_of_a_sealed_session_takes_nothing_in_the_open(home, tmp_path):
    key, folder, sealed = home / f"session-{7:016x}.key", tmp_path / "folder", tmp_path / "sealed"
    key.write_bytes(format_key(new_session_key()))
    folder.mkdir()
    (folder / "mixed.safetensors").write_bytes(b"a private model")
    before = answer("list", "--home", home)["snapshots"]
    assert f"add --session-key {key}" in refusal("add", folder, "--home", home)
    assert answer("list", "--home", home)["snapshots"] == before
    cid = answer("add", folder, "--home", home, "--session-key", key)["cid"]
    answer("get", cid, "--home", home, "--out", sealed)
    assert answer("add", sealed, "--home", home)["cid"] == cid, "what is sealed already needs no key"


def test_garbage_goes_and_no_pinned_block(home, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note").write_bytes(b"by hand")
    cid = answer("add", tmp_path / "folder", "--home", home)["cid"]
    assert answer("gc", "--home", home)["blocks"] == 0
    answer("unpin", cid, "--home", home)
    assert answer("gc", "--home", home)["blocks"] == 2
    assert [each["whole"] for each in answer("list", "--home", home)["snapshots"]] == [True, True]
    assert "is not pinned here" in refusal("unpin", cid, "--home", home)


def test_another_home_pins_a_snapshot_that_a_running_node_gives(chain, tmp_path):
    giver, visitor = make_home(tmp_path / "giver"), make_home(tmp_path / "visitor").path
    opened = make_session(giver, chain, tmp_path / "session.toml")
    node = NodeProcess(giver, tmp_path / "session.toml", "--no-mdns")
    with running([node]):
        where = ("--home", visitor, "--peers", node.address())
        assert answer("pin", opened.session.initial.cid, *where)["bytes"] > 0
        unknown = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
        assert "are with no peer" in refusal("show", unknown, *where)
    got = answer("get", opened.session.initial.cid, "--home", visitor, "--out", tmp_path / "out")
    content = (tmp_path / "out" / "initial.safetensors").read_bytes()
    assert (got["bytes"], hashlib.sha256(content).hexdigest()) == (len(content), opened.session.initial.sha256)


def test_a_kubo_daemon_gives_what_a_home_has(home, tmp_path, kubo_url):  # noqa: F811
    cid = by_round(home)[4]
    answer("get", cid, "--home", home, "--out", tmp_path / "out")
    assert answer("add", tmp_path / "out", "--home", home, "--ipfs", kubo_url)["cid"] == cid
    assert answer("show", cid, "--home", tmp_path / "none", "--ipfs", kubo_url)["files"]
    assert [each["cid"] for each in answer("list", "--home", home, "--ipfs", kubo_url)["snapshots"]] == [cid]
    answer("unpin", cid, "--home", home, "--ipfs", kubo_url, "--force")
    assert answer("list", "--home", home, "--ipfs", kubo_url)["snapshots"] == []
