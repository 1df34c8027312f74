"""What a session's creator chooses: what cannot be is refused in our words, and what can be fits together."""

import pytest

from node.config import Privacy
from node.errors import ConfigError
from node.learning.task import prepare
from node.learning.task_files import load_task
from node.wishes import CoordinationWishes, Wishes, draft, in_our_words, require_possible
from tests.nodes import TASK

CREATOR = "0x" + "ab" * 20


@pytest.fixture(scope="module")
def learner():
    return prepare(load_task(f"{TASK}:task"), 1)


@pytest.fixture
def made(learner):
    def make(coordination=None, **choices):
        chosen = {"task": f"{TASK}:task", "rounds": 4, "rpc": "http://127.0.0.1:8545", **choices}
        if coordination is not None:
            chosen |= {"topology": "coordinated", "coordination": CoordinationWishes(**coordination)}
        wishes = Wishes(**chosen)
        require_possible(wishes, CREATOR)
        return draft(wishes, learner, 1, CREATOR)

    return make


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"round_deadline_s": -1.0}, "--round-deadline -1.0: choose a number above 0 and at most 86400"),
        ({"round_deadline_s": float("nan")}, "--round-deadline nan: choose a number above 0 and at most 86400"),
        ({"staleness": -1}, "--staleness -1: choose a number of at least 0 and at most 100"),
        ({"rounds": 0}, "--rounds 0: choose a number of at least 1 and at most 1000000"),
        ({"split_bytes": 0}, "--split-bytes 0: choose a number of at least 1 and at most 1099511627776"),
        ({"objective": "mine"}, "--objective mine: choose common or personal"),
        ({"bootstrap": ("/ip4/" * 200,)}, "--peers /ip4/"),
        ({"rpc": "http://a/" + "b" * 600}, "--rpc http://a/"),
        ({"name": "a\tb"}, "--name a"),
        ({"coordination": {"momentum": 1.0}}, "--momentum 1.0: choose a number of at least 0 and below 1"),
        (
            {"coordination": {"server_rate": float("nan")}},
            "--server-rate nan: choose a number above 0 and at most 1000",
        ),
        ({"coordination": {"coordinator": "0x12"}}, "--coordinator 0x12: an account is 0x and 40 hexadecimal digits"),
        ({"coordination": {"election_s": -1.0}}, "--election -1.0: choose a number of at least 0 and at most 10000000"),
        ({"coordination": {"late": "never"}}, "--late never: choose weight or drop"),
        ({"coordination": {"metric": "f1", "target": 0.5}}, "--metric f1: choose accuracy or loss"),
        ({"coordination": {"target": 0.5}}, "--target 0.5 without --metric: say of what"),
        ({"coordination": {"metric": "loss", "target": float("inf")}}, "--target inf is never reached"),
        ({"coordination": {"metric": "accuracy", "target": 0.9}}, "pipe-flow may end by loss: choose that"),
        ({"coordination": {"rule": "krum", "faulty": 2}}, "--faulty 2 of 4 members: krum outvotes fewer than half"),
    ],
)
def test_what_cannot_be_is_named_with_its_option_its_value_and_the_cure(made, choices, said):
    with pytest.raises(ConfigError) as refused:
        made(**choices)
    assert str(refused.value).startswith(said) or said in str(refused.value)
    assert "Input should" not in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_a_part_that_cannot_be_is_named_too():
    with pytest.raises(ValueError, match="epsilon") as found:
        Privacy(epsilon=float("nan"))
    assert str(in_our_words(found.value)).startswith("--epsilon nan: choose a number above 0 and at most 4294")


def test_served_workers_have_as_many_places_as_there_are_splits(made):
    assert made({}, data="served").coordinated.maximum == 4
    assert made({}, data="served", members=9).coordinated.maximum == 9
    assert made({"maximum": 3}, data="served").coordinated.maximum == 3
    assert made({}).coordinated.maximum == 65_535
    assert made({"maximum": 70}).coordinated.maximum == 70
    with pytest.raises(ConfigError, match="--maximum 5 with --data served and 4 splits"):
        made({"maximum": 5}, data="served")


def test_a_goal_that_the_task_measures_is_agreed_on(made):
    assert made({"metric": "loss", "plateau": 3}).coordinated.convergence.plateau == 3
    assert made({"metric": "loss", "target": -2.0}).coordinated.convergence.target == -2.0
    assert made().coordinated is None
