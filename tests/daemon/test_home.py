import errno
import fcntl
import json
import os
import stat
import threading
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from node.daemon.status import Status
from node.errors import HomeError
from node.files import write_atomically
from node.home import Home, bind_home, lock_home, open_home, read_status, running_pid


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_directory_without_keys_is_no_home(home):
    with pytest.raises(HomeError, match="fl-node init"):
        open_home(home.path)


def test_a_home_belongs_to_one_session(home):
    bind_home(home, 7, "first")
    bind_home(home, 7, "first")
    with pytest.raises(HomeError, match=r"0000000000000007 \(first\).*use another --home"):
        bind_home(home, 8, "second")


def test_a_damaged_binding_is_made_again_once_it_is_removed(home):
    home.binding.write_bytes(b"")
    with pytest.raises(HomeError, match=r"damaged .*: remove it if this is the home of session 0+7 \(first\), else"):
        bind_home(home, 7, "first")
    home.binding.unlink()
    bind_home(home, 7, "first")


def test_a_home_is_used_by_one_node_at_a_time(home):
    with lock_home(home):
        assert running_pid(home) == os.getpid()
        with pytest.raises(HomeError, match=f"process {os.getpid()}"), lock_home(home):
            pass
    assert running_pid(home) is None


def test_files_are_written_whole_and_private(home):
    path = home.path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in home.path.iterdir()] == ["file"]


def test_a_damaged_status_is_a_clear_error(home):
    assert read_status(home) == {}
    home.status.write_text("{")
    with pytest.raises(HomeError, match="damaged"):
        read_status(home)


@pytest.mark.parametrize("content", [b"", b'{"session": ', b"[]", b'{"session": 3}', b'{"finished_rounds": 3}'])
def test_a_node_starts_whatever_a_loss_of_power_left_of_its_status(home, content, caplog):
    status = Status(home, prepared(7), None, None, None)
    home.status.write_bytes(content)
    half = home.path / ".status.json.4711.tmp"
    half.write_bytes(b"{")
    status.resume()
    assert json.loads(b"".join(status.rounds.as_json())) == []
    assert not half.exists()


def test_a_node_that_starts_again_goes_on_with_the_rounds_of_its_status(home):
    rounds = [{"round": 1, "metrics": {}}, {"round": 2, "metrics": {}}]
    for session_id, known in ((7, rounds), (8, [])):
        home.status.write_text(json.dumps({"session": {"id": f"{7:016x}"}, "finished_rounds": rounds}))
        status = Status(home, prepared(session_id), None, None, None)
        status.resume()
        assert json.loads(b"".join(status.rounds.as_json())) == known


def prepared(session_id):
    return SimpleNamespace(
        opened=SimpleNamespace(session_id=session_id, session=SimpleNamespace(name="first", task="mnist-softmax"))
    )


def test_stop_waits_for_a_node_that_is_just_starting_or_ending(home):
    home.identity.write_bytes(b"key")
    held = home.lock.open("w")  # a node that has not written its process id yet
    fcntl.flock(held, fcntl.LOCK_EX)
    ending = threading.Timer(0.1, held.close)
    ending.start()
    result = CliRunner().invoke(cli, ["stop", "--home", str(home.path), "--json"])
    ending.join()
    assert json.loads(result.stdout) == {"stopped": True, "was_running": True}


def test_a_full_disk_is_one_clear_error_and_the_old_content_stays(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomically(path, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HomeError, match=r"status.json cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]
