import json

import pytest
from click.testing import CliRunner

from node.cli.app import cli
from node.daemon.watching import save_evidence
from node.messages import Announcement, announcement_bytes
from node.network.identity import identity_from_seed
from node.session.board import Equivocation

MALLORY, ALICE = identity_from_seed(b"m" * 32), identity_from_seed(b"a" * 32)


def announcement(digest, round=3, signer=MALLORY, peer=MALLORY):
    signature = signer.sign(announcement_bytes(7, round, digest * 32, 10, "float32"))
    return Announcement(7, round, digest * 32, 10, "float32", peer.peer_id, signature)


@pytest.fixture
def judge(tmp_path):
    def invoke(first, second):
        path = save_evidence(tmp_path, Equivocation(2, first, second))
        result = CliRunner().invoke(cli, ["audit", "--json", "--evidence", str(path)])
        return result.exit_code, json.loads(result.stdout.strip().splitlines()[-1])

    return invoke


def test_two_signed_updates_for_one_round_convict(judge):
    code, verdict = judge(announcement(b"1"), announcement(b"2"))
    assert code == 1
    assert verdict == {
        "convicts": True,
        "peer_id": MALLORY.peer_id,
        "session": "0000000000000007",
        "round": 3,
        "reason": "two signed updates",
    }


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (announcement(b"1"), announcement(b"1"), "same update"),
        (announcement(b"1"), announcement(b"2", round=4), "rounds 3 and 4"),
        (announcement(b"1"), announcement(b"2", signer=ALICE), "signature of announcement 2"),
        (announcement(b"1"), announcement(b"2", signer=ALICE, peer=ALICE), "two peers"),
    ],
)
def test_nobody_is_convicted_without_proof(judge, first, second, reason):
    code, verdict = judge(first, second)
    assert code == 0
    assert verdict["convicts"] is False
    assert reason in verdict["reason"]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"announcements": [1, 2]}', '{"announcements": [{}, {}]}', "[" * 60_000], ids=range(5)
)
def test_a_file_that_is_no_evidence_is_a_clear_error(tmp_path, content):
    (tmp_path / "file").write_text(content)
    result = CliRunner().invoke(cli, ["audit", "--evidence", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "no two signed announcements" in result.stderr


def test_text_of_the_file_is_shown_as_it_is_and_steers_no_terminal(tmp_path):
    path = save_evidence(tmp_path, Equivocation(2, announcement(b"1"), announcement(b"2")))
    path.write_text(path.read_text().replace(MALLORY.peer_id, "[/red]\\u001b[2J"))
    result = CliRunner().invoke(cli, ["audit", "--evidence", str(path)])
    assert result.exit_code == 0
    assert "[/red]" in result.stdout
    assert "\x1b" not in result.stdout
