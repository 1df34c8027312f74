"""What a host sends as its reports: a set of reports is unpacked, and nothing else, however little it costs to send."""

import gzip
import io
import os
import subprocess
import sys
import tarfile

import pytest

from tests.nodes import REPOSITORY

UNPACK = REPOSITORY / "scripts" / "fleet" / "unpack.py"
SSH = """#!/bin/sh
for last; do :; done
case $last in
*"'reports'"*) cat "$ARCHIVE" ;;
*) {says}; echo stopped ;;
esac
"""


def regular(name, content=b"{}"):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    return entry, content


def special(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def tar(*entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def unpack(archive, folder):
    folder.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, UNPACK, folder], input=archive, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


def test_a_set_of_reports_is_unpacked_in_place_of_the_last_one(tmp_path):
    evidence = [special("evidence", tarfile.DIRTYPE), regular("evidence/contradiction-1-2.json", b"[1]")]
    assert unpack(tar(regular("status.json", b"old"), *evidence), tmp_path / "alice") == (0, "")
    assert unpack(tar(regular("status.json", b"new"), regular("node.log", b"x" * 3_000_000)), tmp_path / "alice") == (
        0,
        "",
    )
    assert (tmp_path / "alice" / "status.json").read_bytes() == b"new"
    assert (tmp_path / "alice" / "node.log").stat().st_size == 3_000_000
    assert (tmp_path / "alice" / "evidence" / "contradiction-1-2.json").read_bytes() == b"[1]"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (special("node.log", tarfile.SYMTYPE, "/etc/passwd"), "'node.log' is no regular file"),
        (special("evidence", tarfile.SYMTYPE, "/tmp"), "'evidence' is no regular file"),
        (special("node.log", tarfile.LNKTYPE, "status.json"), "'node.log' is no regular file"),
        (special("node.log", tarfile.FIFOTYPE), "'node.log' is no regular file"),
        (special("node.log", tarfile.CHRTYPE), "'node.log' is no regular file"),
        (regular("../status.json"), "'../status.json' is none of a node's reports"),
        (regular("/status.json"), "'/status.json' is none of a node's reports"),
        (regular("evidence/../../x"), "is none of a node's reports"),
        (regular("evidence/.ssh"), "is none of a node's reports"),
        (regular("identity.key"), "'identity.key' is none of a node's reports"),
        (special("elsewhere", tarfile.DIRTYPE), "'elsewhere' is no regular file"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, entry, said):
    code, told = unpack(tar(regular("status.json"), entry), tmp_path / "alice")
    assert code == 1
    assert said in told
    assert {path.name for path in tmp_path.rglob("*")} <= {"alice", "status.json"}


@pytest.mark.real
def test_what_is_compressed_is_never_unpacked(tmp_path):
    code, told = unpack(gzip.compress(tar(regular("node.log", bytes(50_000_000)))), tmp_path / "alice")
    assert code == 3
    assert "no tar" in told
    assert not list((tmp_path / "alice").iterdir())


@pytest.mark.real
def test_sizes_are_bounded_before_a_byte_is_written(tmp_path):
    entry, _ = regular("node.log")
    entry.size = 2**30 + 1
    code, told = unpack(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024), tmp_path / "alice")
    assert code == 1
    assert "more than 1,073,741,824 bytes" in told
    many = [regular(f"evidence/{number}.json", b"") for number in range(10_001)]
    code, told = unpack(tar(*many), tmp_path / "bob")
    assert code == 1
    assert "10,000 files" in told


@pytest.mark.real
def test_a_header_that_claims_the_whole_memory_gets_none_of_it(tmp_path):
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "huge").write_bytes(entry.tobuf(tarfile.GNU_FORMAT))
    os.truncate(tmp_path / "huge", 2**33)  # a hole: it takes no room
    with (tmp_path / "huge").open("rb") as stream:
        done = subprocess.run([sys.executable, UNPACK, tmp_path], stdin=stream, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"the reports are refused: MemoryError" in done.stderr


def test_a_tar_that_breaks_off_is_told_from_one_that_is_refused(tmp_path):
    whole = tar(regular("node.log", b"x" * 100_000))
    code, told = unpack(whole[:50_000], tmp_path / "alice")
    assert code == 3
    assert "broke off" in told
    assert unpack(b"", tmp_path / "alice")[0] == 3


def collect(place, archive, says=":"):
    """`shutdown.sh --collect` with a stand-in for ssh; exit status, what it said, and its reports."""
    (place / "archive").write_bytes(archive)
    ssh = place / "ssh"
    ssh.write_text(SSH.replace("{says}", says))
    ssh.chmod(0o755)
    (place / "hosts").write_text("alice 192.0.2.1 22 fl-node /srv/fl/alice -")
    (place / "tmp").mkdir()
    path = f"{place}:{os.path.dirname(sys.executable)}:/usr/bin:/bin"
    environment = {"PATH": path, "ARCHIVE": f"{place}/archive", "TMPDIR": f"{place}/tmp"}
    command = [REPOSITORY / "scripts" / "shutdown.sh", place / "hosts", "--collect", place / "reports"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr, place / "reports" / "alice"


def test_an_evil_host_costs_its_line_in_the_table_and_nothing_else(tmp_path):
    code, said, reports = collect(tmp_path, gzip.compress(tar(regular("node.log", bytes(10_000_000)))))
    assert code == 1, said
    assert "failed" in said
    assert "the reports are no tar" in said
    assert not list(reports.iterdir())


def test_good_reports_are_collected(tmp_path):
    code, said, reports = collect(tmp_path, tar(regular("status.json")))
    assert code == 0, said
    assert "stopped" in said
    assert (reports / "status.json").read_bytes() == b"{}"


@pytest.mark.real
def test_a_host_that_never_stops_talking_fills_no_disk(tmp_path):
    """What it says is read to its end, so that it may still do what was asked; 1 MiB of it is kept."""
    flood = f"head -c 50M /dev/zero; head -c 50M /dev/zero >&2; ls -s {tmp_path}/tmp/*/ >{tmp_path}/seen"
    code, said, reports = collect(tmp_path, tar(regular("status.json")), flood)
    assert code == 0, said[-1000:]
    assert (reports / "status.json").exists()
    sizes = [int(line.split()[0]) for line in (tmp_path / "seen").read_text().splitlines() if line[:1].isdigit()]
    assert sum(sizes) <= 2 * 1024 + 64
