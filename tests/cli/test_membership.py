"""`fl-node session admit|remove|leave|rejoin` against a real chain."""

import json

import pytest
from click.testing import CliRunner

from ledger import load_keystore
from node.cli.app import cli
from node.daemon.admission import join_session
from node.network.identity import load_identity
from tests.nodes import PASSPHRASE, make_home, make_session

pytestmark = pytest.mark.real


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, ("session", *arguments))], env={"FL_NODE_PASSPHRASE": PASSPHRASE})


@pytest.fixture
def party(chain, tmp_path):
    """An admitted session with nobody in it, its creator's home, another one, and how the latter's account stands."""
    alice, bob = make_home(tmp_path / "alice"), make_home(tmp_path / "bob")
    opened = make_session(alice, chain, tmp_path / "session.toml", admitted=True)
    account = load_keystore(bob.keystore, PASSPHRASE)

    def says(home, *arguments):
        result = run(*arguments, "--session", tmp_path / "session.toml", "--home", home.path, "--json")
        return result.exit_code, json.loads(result.stdout)

    def join():
        join_session(opened, load_identity(bob.identity), account)

    def standing():
        return next(
            each.standing for each in opened.ledger.members(opened.session_id) if each.account == account.address
        )

    return alice, bob, account.address, says, join, standing


def test_a_member_is_admitted_leaves_comes_back_and_is_removed(party):
    alice, bob, account, says, join, standing = party
    code, answer = says(alice, "admit", account.lower())
    assert (code, answer["accounts"], answer["did"]) == (0, [account], "admitted")
    join()
    assert says(bob, "leave")[0] == 0
    left = standing()
    assert says(bob, "rejoin")[0] == 0
    back = standing()
    assert says(alice, "remove", account)[0] == 0
    assert len({left, back, standing()}) == 3


def test_who_may_not_is_told_so_and_what_is_no_account_is_refused(party):
    alice, bob, account, says, _, _ = party
    code, answer = says(bob, "admit", account)
    assert code == 2
    assert "error" in answer
    code, answer = says(alice, "admit", "0x12")
    assert (code, "'0x12' is no account" in answer["error"]) == (2, True)
