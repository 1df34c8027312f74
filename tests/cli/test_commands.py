"""Commands that look at a session which is over, and those that make a home and a session."""

import contextlib
import json
import os
import pty
import stat
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from click.testing import CliRunner

from ledger import Membership, load_keystore
from node.cli.app import cli
from node.cli.homes import stop
from node.cli.ledger_commands import last_matrix
from node.cli.start import start
from node.home import lock_home
from tests.ledger.faulty_rpc import FaultyRpc
from tests.nodes import PASSPHRASE, REPOSITORY, make_home, make_session

pytestmark = pytest.mark.real


def run(*arguments, **environment):
    env = {"FL_NODE_PASSPHRASE": PASSPHRASE, **environment}
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=env)


def answer(*arguments, **environment):
    result = run(*arguments, "--json", **environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture
def session(finished_run):
    return ("--session", finished_run.session_file, "--rpc", finished_run.chain.url)


def test_init_makes_a_private_home(tmp_path):
    home = tmp_path / "new"
    fields = answer("init", "--home", home)
    assert fields["peer_id"].startswith("12D3KooW")
    assert fields["account"].startswith("0x")
    for name in ("identity.key", "keystore.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert PASSPHRASE not in (home / "keystore.json").read_text()
    assert not (home / "passphrase").exists()


def test_init_without_a_terminal_invents_a_passphrase(tmp_path):
    home = tmp_path / "new"
    answer("init", "--home", home, FL_NODE_PASSPHRASE="")
    assert stat.S_IMODE((home / "passphrase").stat().st_mode) == 0o600
    assert len((home / "passphrase").read_text().strip()) >= 24


def test_the_passphrase_is_changed_with_the_file_that_has_it(tmp_path):
    home = make_home(tmp_path / "a")
    home.passphrase.write_text(PASSPHRASE)
    (tmp_path / "new").write_text("battery staple\n")
    change = ("passphrase", "--home", home.path, "--new-passphrase-file", tmp_path / "new")
    fields = answer(*change, FL_NODE_PASSPHRASE="")
    assert fields["passphrase_file_changed"] is True
    assert home.passphrase.read_text() == "battery staple\n"
    assert stat.S_IMODE(home.keystore.stat().st_mode) == 0o600
    assert load_keystore(home.keystore, "battery staple").address == fields["account"]
    home.passphrase.write_text(PASSPHRASE)  # as after a kill between the two files
    assert answer(*change, FL_NODE_PASSPHRASE="") == fields
    assert home.passphrase.read_text() == "battery staple\n"
    back = answer("passphrase", "--home", home.path, FL_NODE_PASSPHRASE="battery staple", FL_NODE_NEW_PASSPHRASE="x")
    assert back["account"] == load_keystore(home.keystore, "x").address


def test_the_passphrase_of_a_running_node_or_without_the_old_one_stays(tmp_path):
    home = make_home(tmp_path / "a")
    refused = run("passphrase", "--home", home.path, FL_NODE_PASSPHRASE="wrong", FL_NODE_NEW_PASSPHRASE="x")
    assert refused.exit_code == 2
    assert "the passphrase does not open" in refused.stderr
    refused = run("passphrase", "--home", home.path)
    assert "--new-passphrase-file FILE, or set FL_NODE_NEW_PASSPHRASE" in refused.stderr
    with lock_home(home):
        refused = run("passphrase", "--home", home.path, FL_NODE_NEW_PASSPHRASE="x")
    assert "in use by a running node" in refused.stderr
    assert load_keystore(home.keystore, PASSPHRASE)
    assert not home.passphrase.exists()


def test_init_uses_the_passphrase_that_lies_in_the_home(tmp_path):
    home = tmp_path / "new"
    home.mkdir()
    (home / "passphrase").write_text("chosen by me\n")
    account = answer("init", "--home", home, FL_NODE_PASSPHRASE="")["account"]
    assert (home / "passphrase").read_text() == "chosen by me\n"
    assert load_keystore(home / "keystore.json", "chosen by me").address == account
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "passphrase").touch()
    refused = run("init", "--home", tmp_path / "other", FL_NODE_PASSPHRASE="")
    assert (refused.exit_code, "is empty" in refused.stderr) == (2, True)
    assert not (tmp_path / "other" / "keystore.json").exists()


def test_a_session_is_created_shown_and_verified(chain, tmp_path):
    home, path = make_home(tmp_path / "home"), tmp_path / "session.toml"
    wishes = ("--task", "mnist-softmax", "--rounds", 3, "--rpc", chain.url)
    created = answer("session", "create", *wishes, "--home", home.path, "--out", path)
    shown = answer("session", "show", path)
    assert shown["config_hash"] == created["config_hash"]
    assert (shown["rounds"], shown["task"]) == (3, "mnist-softmax")
    verified = answer("session", "verify", path)
    assert verified["valid"] is True
    assert verified["session"] == created["session"]
    assert (verified["state"], verified["members"]) == ("open", 0)


def test_history_answers_in_json(session):
    records = answer("history", *session)["records"]
    assert len(records) == 12
    assert {(record["round"], record["member"]) for record in records} == {
        (round, member) for round in range(1, 5) for member in range(3)
    }
    assert all(record["complete"] for record in records)


def test_history_shows_the_trust_matrix(session):
    rows = answer("history", *session, "--view", "trust")["trust"]
    for round in range(1, 5):
        for member in range(3):
            weights = [row["weight"] for row in rows if (row["round"], row["member"]) == (round, member)]
            assert sum(weights) == 65535
    assert "trust matrix" in run("history", *session, "--view", "trust").stdout


def test_history_is_a_table_for_people(session):
    text = run("history", *session).stdout
    assert "12 rows" in text
    assert "update_hash" in text


def test_what_a_member_wrote_is_shown_as_it_is_and_moves_no_cursor(chain, tmp_path):
    home, path = make_home(tmp_path / "home"), tmp_path / "session.toml"
    opened = make_session(home, chain, path)
    membership = Membership(b"\x01" * 32, b"\x02" * 64, ("[/b]", "\x1b[2J", "[red]"))
    opened.ledger.join(chain.accounts[0], opened.session_id, membership)
    result = run("history", "--session", path, "--rpc", chain.url, "--view", "members", COLUMNS="300")
    assert result.exit_code == 0, result.output
    assert "[/b] \N{REPLACEMENT CHARACTER}[2J [red]" in result.stdout
    assert "\x1b" not in result.stdout


def test_the_matrix_of_a_row_with_thousands_of_inputs_is_cut_and_says_so():
    frame = pd.DataFrame({"round": 7, "member": 1, "peer": range(3000), "weight": 0})
    frame.loc[1, "weight"] = 65535
    table = last_matrix(pd.concat([frame, frame.iloc[:2].assign(member=0), frame.iloc[:9].assign(round=6, member=2)]))
    assert (len(table.columns), table.row_count) == (33, 32)
    assert table.caption == "the first 32 of 3000 members"
    assert list(table.columns[2].cells)[:3] == ["100.00", "100.00", "·"]
    assert last_matrix(frame[frame["peer"] < 4]).caption is None


def test_the_matrix_shows_shares_of_a_rows_own_sum_also_where_it_is_cut():
    frame = pd.DataFrame({"round": 7, "member": 1, "peer": range(40), "weight": 1})
    assert list(last_matrix(frame).columns[3].cells)[1] == "2.50"


@pytest.mark.parametrize("view", ["records", "members", "trust", "gas"])
def test_history_writes_csv_and_parquet(session, tmp_path, view):
    result = run("history", *session, "--view", view, "--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet")
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "t.csv")) == len(pd.read_parquet(tmp_path / "t.parquet")) > 0


@pytest.fixture
def fresh(chain, tmp_path):
    """The file of a session that nobody has joined."""
    make_session(make_home(tmp_path / "home"), chain, tmp_path / "session.toml")
    return tmp_path / "session.toml"


@pytest.mark.parametrize("form", ["--csv", "--parquet"])
def test_a_disk_that_is_full_is_one_clear_error(form, fresh, chain):
    result = run("history", "--session", fresh, "--rpc", chain.url, form, "/dev/full")
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1] == "fl-node: /dev/full cannot be written: No space left on device"


@contextlib.contextmanager
def served(directory):
    """The URL of a directory's files."""
    serve = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_audit_takes_a_session_file_from_a_url(fresh, chain, tmp_path):
    (tmp_path / "home" / "ipfs").mkdir(exist_ok=True)
    rest = ("--rpc", chain.url, "--ipfs", tmp_path / "home")
    with served(tmp_path) as url:
        result = run("audit", "--session", f"{url}/session.toml", *rest)
        assert (result.exit_code, result.stdout) == (2, run("audit", "--session", fresh, *rest).stdout)
        assert "0 records" in result.stdout
        assert "--ipfs where" in run("audit", "--session", f"{url}/session.toml", "--rpc", chain.url).stderr
        assert "status 404" in run("audit", "--session", f"{url}/none.toml", *rest).stderr


def test_evidence_is_judged_by_itself(fresh, tmp_path):
    result = run("audit", "--evidence", tmp_path / "file", "--session", fresh, "--from", 2)
    assert (result.exit_code, "leave --session, --from out" in result.stderr) == (2, True)
    elsewhere = run("audit", "--evidence", tmp_path / "file", FL_NODE_SESSION=str(fresh))
    assert f"the evidence {tmp_path / 'file'} cannot be read" in elsewhere.stderr


def test_history_reads_on_from_a_cache(session, tmp_path):
    cache = tmp_path / "session.history"
    assert answer("history", *session, "--cache", cache) == answer("history", *session)
    size = cache.stat().st_size
    assert answer("history", *session, "--cache", cache) == answer("history", *session)
    assert cache.stat().st_size == size > 0
    cache.write_bytes(b"no database at all" * 100)
    assert "name another file" in run("history", *session, "--cache", cache).stderr


@pytest.mark.parametrize("twist", [lambda _: [], lambda logs: logs[:-2]], ids=["no logs", "not the last two"])
@pytest.mark.parametrize("view", ["records", "members"])
def test_history_through_a_node_that_leaves_records_out_is_an_error(finished_run, view, twist, monkeypatch):
    monkeypatch.setattr("ledger.replay._PAUSES", (0.0,))
    monkeypatch.setattr("ledger.replay._NEWEST", 1 << 32)
    with FaultyRpc(finished_run.chain.url) as rpc:
        rpc.twists["eth_getLogs"] = twist
        result = run("history", "--session", finished_run.session_file, "--rpc", rpc.url, "--view", view)
    assert result.exit_code == 2, result.output
    assert "ask another node" in result.stderr


def test_history_shows_a_bar_on_a_terminal(session, monkeypatch):
    arguments = [sys.executable, "-m", "node", "history", *map(str, session)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=theirs, cwd=REPOSITORY) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    assert process.returncode == 0
    assert b"reading the ledger" in shown


def test_status_shows_a_node_that_has_finished(finished_run):
    seen = answer("status", "--home", finished_run.homes[0].path)
    assert (seen["state"], seen["round"], seen["running"]) == ("finished", 4, False)
    assert seen["records"]["confirmed"] == 5
    text = run("status", "--home", finished_run.homes[0].path).stdout
    assert "5 on the chain, 0 waiting" in text


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_an_answer_that_nobody_reads_changes_no_exit_status(finished_run, form):
    where = ("--session", str(finished_run.session_file), "--rpc", finished_run.chain.url)
    read, write = os.pipe()
    os.close(read)  # as `| true`
    try:
        process = subprocess.run(
            [sys.executable, "-m", "node", "audit", *where, *form], stdout=write, stderr=subprocess.PIPE, cwd=REPOSITORY
        )
    finally:
        os.close(write)
    assert (process.returncode, process.stderr.decode()) == (0, "")


@pytest.mark.parametrize(("redirect", "status"), [(">&-", 0), ("> /dev/full", 2)])
def test_an_answer_that_cannot_be_written_is_no_verdict(finished_run, redirect, status):
    command = [sys.executable, "-m", "node", "status", "--home", str(finished_run.homes[0].path)]
    process = subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *command], stderr=subprocess.PIPE, cwd=REPOSITORY, text=True
    )
    assert process.returncode == status
    assert "Traceback" not in process.stderr


def test_stopping_a_node_that_does_not_run_is_no_error(finished_run):
    assert answer("stop", "--home", finished_run.homes[0].path) == {"stopped": False, "was_running": False}


def test_a_stop_waits_longer_than_a_node_takes_to_end():
    def default(command, name):
        return next(option.default for option in command.params if option.name == name)

    phases = ("stop_s", "flush_s", "replicate_s")
    assert default(stop, "timeout") > sum(default(start, phase) for phase in phases)


def test_settings_come_from_flags_then_the_environment_then_a_file(finished_run, tmp_path):
    settings = tmp_path / "settings.toml"
    first, second, third = (home.path for home in finished_run.homes)
    settings.write_text(f'home = "{first}"\n')
    shown = [
        answer("--config", settings, "status"),
        answer("--config", settings, "status", FL_NODE_HOME=str(second)),
        answer("--config", settings, "status", "--home", third, FL_NODE_HOME=str(second)),
    ]
    assert [seen["peer_id"] for seen in shown] == [
        answer("status", "--home", home)["peer_id"] for home in (first, second, third)
    ]
