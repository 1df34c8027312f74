"""What a session with places for so many workers answers to who comes, on a real chain."""

from io import StringIO

import pytest
from rich.console import Console

from ledger import Membership, binding_message
from ledger.keys import load_keystore
from node.daemon.parts import Registration, registration
from node.daemon.prepare import prepare_node
from node.daemon.settings import StartSettings
from node.dashboard.tables import status_view
from node.errors import SessionFileError
from node.network.identity import load_identity
from node.wishes import CoordinationWishes
from tests.nodes import PASSPHRASE, TASK, make_home, make_session

pytestmark = pytest.mark.real
PLACES = 2


class Session:
    """A leader's session with two places, and homes of those who come."""

    def __init__(self, chain, place):
        self.place, self.file = place, place / "session.toml"
        self.leader = make_home(place / "leader")
        wishes = CoordinationWishes(rule="sgd", maximum=PLACES)
        choices = {"topology": "coordinated", "update": "gradients", "quorum": PLACES, "coordination": wishes}
        self.opened = make_session(self.leader, chain, self.file, **choices)

    def register(self, home):
        return prepare_node(StartSettings(home, self.file, PASSPHRASE, task=f"{TASK}:task"))

    def members(self):
        return len(self.opened.ledger.members(self.opened.session_id))

    def join_without_asking(self, home):
        """As a second one does that asked for the last place at the same time."""
        account, identity = load_keystore(home.keystore, PASSPHRASE), load_identity(home.identity)
        opened = self.opened
        where = (opened.session.ledger.chain_id, opened.ledger.address, opened.session_id)
        signed = identity.sign(binding_message(*where, account.address))
        opened.ledger.join(account, opened.session_id, Membership(identity.public_key, signed))


@pytest.fixture
def session(chain, tmp_path):
    return Session(chain, tmp_path)


def test_registration_answers_the_id_the_session_and_how_many_learners_there_are_and_may_be(session):
    leader = session.register(session.leader)
    assert leader.directory.own_index == 0
    assert registration(leader, None) == Registration("coordinator", 0, PLACES, "gradients", "sgd")
    for number in (1, 2):
        learner = session.register(make_home(session.place / f"learner{number}"))
        assert learner.directory.own_index == number
        assert learner.opened.session_id == session.opened.session_id
        answered = registration(learner, None)
        assert answered == Registration("worker", number, PLACES, "gradients", "sgd")
        assert str(answered) == f"worker; {number} workers so far, at most {PLACES}; update gradients, rule sgd"


def test_beyond_the_maximum_nobody_joins_and_who_has_a_place_comes_back(session):
    first = make_home(session.place / "first")
    for home in (session.leader, first, make_home(session.place / "second")):
        session.register(home)
    with pytest.raises(
        SessionFileError, match=r"has 2 workers and takes at most 2, of whom account 0x\w+ is none: ask"
    ):
        session.register(make_home(session.place / "third"))
    assert session.members() == 3
    assert session.register(first).directory.own_index == 1


def test_who_leaves_keeps_its_place_and_the_next_one_is_told_so(session):
    leaving = make_home(session.place / "leaving")
    for home in (session.leader, leaving, make_home(session.place / "second")):
        session.register(home)
    session.opened.ledger.leave(load_keystore(leaving.keystore, PASSPHRASE), session.opened.session_id)
    with pytest.raises(SessionFileError) as refused:
        session.register(make_home(session.place / "third"))
    assert "has 2 workers (1 of them gone, whose places stay taken) and takes at most 2" in str(refused.value)
    assert "or one that left to come back (fl-node session rejoin)" in str(refused.value)
    answered = registration(session.register(session.leader), None)
    assert answered == Registration("coordinator", 2, PLACES, "gradients", "sgd", gone=1)
    assert "2 workers so far (1 of them gone, whose places stay taken), at most 2" in str(answered)
    session.opened.ledger.rejoin(load_keystore(leaving.keystore, PASSPHRASE), session.opened.session_id, [])
    assert session.register(leaving).directory.own_index == 1


def test_the_places_are_workers_also_where_the_leader_comes_last(session):
    for number in (1, 2):
        session.register(make_home(session.place / f"learner{number}"))
    with pytest.raises(SessionFileError, match="takes at most 2"):
        session.register(make_home(session.place / "third"))
    assert session.register(session.leader).directory.own_index == PLACES


def test_who_joined_for_a_place_that_was_taken_is_refused_now_and_later(session):
    late = make_home(session.place / "late")
    for number in (1, 2):
        session.register(make_home(session.place / f"learner{number}"))
    session.join_without_asking(late)
    for _ in range(2):
        with pytest.raises(SessionFileError, match="has 3 workers and takes at most 2"):
            session.register(late)


def test_of_two_that_join_at_once_for_one_place_the_later_one_is_refused(session, monkeypatch):
    session.register(make_home(session.place / "learner"))
    late, faster = make_home(session.place / "late"), make_home(session.place / "faster")
    join = session.opened.ledger.__class__.join

    def overtaken(ledger, account, *rest):
        monkeypatch.undo()
        session.join_without_asking(faster)
        return join(ledger, account, *rest)

    monkeypatch.setattr(session.opened.ledger.__class__, "join", overtaken)
    with pytest.raises(SessionFileError, match="has 3 workers and takes at most 2"):
        session.register(late)


def test_the_status_says_what_a_member_registered_for():
    console = Console(width=200, record=True, file=StringIO())
    told = {"role": "worker", "workers": 3, "maximum": 8, "update": "gradients", "rule": "sgd"}
    console.print(status_view({"registration": told}))
    assert "worker; 3 workers, at most 8; update gradients, rule sgd" in console.export_text()
    console.print(status_view({"registration": {**told, "gone": 2}}))
    assert "worker; 3 workers (2 of them gone), at most 8" in console.export_text()
