"""What a session's creator chooses: what cannot be is refused in our words, and what can be fits together."""

import pytest
import torch

from node.config import Aggregation, Privacy, format_session, parse_session
from node.errors import ConfigError
from node.learning.aggregation import USED_BY, settle, trust_row
from node.learning.task import prepare
from node.learning.task_files import load_task
from node.wishes import (
    CoordinationWishes,
    Wishes,
    draft,
    in_our_words,
    needed_updates,
    quorum_warning,
    require_possible,
)
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
        (
            {"coordination": {"rule": "krum", "faulty": 2}},
            "--faulty 2 of 4 members: krum needs 7 updates to outvote 2 bad ones: "
            "choose --members 7 or more, or --faulty 0 or less",
        ),
        (
            {"members": 9, "coordination": {"rule": "clipping", "faulty": 2, "maximum": 4}},
            "--faulty 2 of 4 members: clipping needs 5 updates to outvote 2 bad ones: "
            "choose --maximum 5 or more, or --faulty 1 or less",
        ),
        (
            {"quorum": 2, "coordination": {"rule": "trimmed_mean", "faulty": 1}},
            "--quorum 2 with --faulty 1: trimmed_mean needs 3 updates to outvote 1 bad one: "
            "choose --quorum 3 or more, or --faulty 0 or less",
        ),
        (
            {"quorum": 6, "members": 7, "coordination": {"rule": "multi_krum", "faulty": 2}},
            "--quorum 6 with --faulty 2: multi_krum needs 7 updates to outvote 2 bad ones: "
            "choose --quorum 7 or more, or --faulty 1 or less",
        ),
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


@pytest.mark.parametrize(
    ("rule", "faulty", "quorum"),
    [
        ("fedavg", 0, 2),
        ("median", 0, 2),
        ("krum", 0, 2),
        ("trimmed_mean", 1, 3),
        ("clipping", 3, 7),
        ("krum", 1, 5),
        ("multi_krum", 2, 7),
    ],
)
def test_the_quorum_is_what_the_rule_needs_unless_it_is_chosen(made, rule, faulty, quorum):
    chosen = {"rule": rule, "faulty": faulty}
    assert made(chosen, members=8).quorum == quorum
    assert made(chosen, members=8, quorum=8).quorum == 8


def test_a_file_of_before_whose_quorum_is_too_small_still_loads_and_is_warned_of(made):
    agreed = made({"rule": "trimmed_mean", "faulty": 1})
    assert quorum_warning(agreed) == quorum_warning(made()) == quorum_warning(made({})) == ""
    before = parse_session(format_session(agreed).replace(b"quorum = 3", b"quorum = 2"), "s.toml")
    assert before.quorum == 2
    said = "the session's quorum is 2: trimmed_mean needs 3 updates to outvote 1 bad one"
    assert quorum_warning(before).startswith(said)
    assert quorum_warning(before).endswith("create a session with --quorum 3 or more")


@pytest.mark.parametrize("faulty", [1, 2, 3])
@pytest.mark.parametrize("rule", sorted(USED_BY["faulty"]))
def test_with_as_many_updates_as_a_rule_needs_bad_ones_do_not_carry_the_model_away(rule, faulty):
    how, model = Aggregation(rule=rule, faulty=faulty), torch.zeros(3)
    honest = [torch.full((3,), 0.1 * i) for i in range(1, needed_updates(rule, faulty) - faulty + 1)]
    for place in (0, len(honest)):
        updates = honest[:place] + faulty * [torch.full((3,), 1e6)] + honest[place:]
        row = trust_row(how, model, updates, [1.0] * len(updates))
        inputs = [one for one, weight in zip([model, *updates], row, strict=True) if weight]
        settled = settle(how, model, inputs, row[row > 0], None)
        assert 0 <= settled.flat.min() <= settled.flat.max() <= honest[-1].max()


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
