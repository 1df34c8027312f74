import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from node.config import (
    FILE_LIMIT,
    Contract,
    Coordination,
    Initial,
    Limits,
    Privacy,
    Session,
    config_hash,
    format_session,
    parse_session,
)
from node.errors import SessionFileError

SESSION = Session(
    name="a session",
    creator="0x" + "ab" * 20,
    task="mnist-softmax",
    model_sha256="0" * 64,
    rounds=10,
    seed=1,
    initial=Initial(cid="bafy", sha256="1" * 64),
    limits=Limits(payload_bytes=100),
    ledger=Contract(chain_id=1, address="0x" + "00" * 20),
)


def test_a_session_survives_its_file():
    assert parse_session(format_session(SESSION), "file") == SESSION


def test_a_change_of_one_byte_changes_the_hash():
    content = format_session(SESSION)
    assert config_hash(content) != config_hash(content + b"\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * (FILE_LIMIT + 1), "at most"),
        (b"a = " + b"[" * 60_000, "deeply"),
        (b"\xff\xfe", "not a text file"),
        (b"rounds =", "not valid TOML"),
        (b"", "name"),
        (format_session(SESSION) + b'\nsurprise = "field"\n', "surprise"),
        (format_session(SESSION).replace(b"rounds = 10", b"rounds = 0"), "rounds"),
        (format_session(SESSION).replace(b"0xabab", b"0xzzzz"), "creator"),
    ],
)
def test_what_is_wrong_is_named(content, words):
    with pytest.raises(SessionFileError, match=words):
        parse_session(content, "session.toml")


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(content):
    with pytest.raises(SessionFileError):
        parse_session(content, "session.toml")


COORDINATED = SESSION.model_copy(
    update={"topology": "coordinated", "coordinated": Coordination(coordinator="0x" + "cd" * 20)}
)


def test_a_coordinated_session_survives_its_file():
    assert parse_session(format_session(COORDINATED), "file") == COORDINATED


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'topology = "coordinated"', b'topology = "gossip"', "coordinated"),
        (b'rule = "fedavg"', b'rule = "mean"', "rule"),
        (b"plateau = 0", b"plateau = 3", "needs a metric"),
        (b'late = "weight"', b'late = "maybe"', "late"),
    ],
)
def test_what_is_wrong_with_a_coordinated_session_is_named(old, new, words):
    content = format_session(COORDINATED)
    assert old in content
    with pytest.raises(SessionFileError, match=words):
        parse_session(content.replace(old, new), "session.toml")


def test_a_privacy_budget_survives_its_file():
    session = SESSION.model_copy(update={"privacy": Privacy(epsilon=3, sample_rate=0.06)})
    again = parse_session(format_session(session), "file")
    assert again == session
    assert again.privacy.noise_multiplier is None


@pytest.mark.parametrize(
    ("budget", "field"),
    [
        ({"epsilon": 0}, "privacy.epsilon"),
        ({"epsilon": float("inf")}, "privacy.epsilon"),
        ({"epsilon": 5000}, "privacy.epsilon"),
        ({"epsilon": 1, "delta": 1.0}, "privacy.delta"),
        ({"epsilon": 1, "clip": 0}, "privacy.clip"),
        ({"epsilon": 1, "noise_multiplier": 0}, "privacy.noise_multiplier"),
        ({"epsilon": 1, "sample_rate": 1.5}, "privacy.sample_rate"),
        ({"epsilon": 1, "accountant": "mine"}, "privacy.accountant"),
        ({"delta": 1e-5}, "privacy.epsilon"),
    ],
)
def test_a_privacy_budget_that_cannot_be_is_named(budget, field):
    fields = SESSION.model_dump(mode="json", exclude_none=True) | {"privacy": budget}
    with pytest.raises(SessionFileError, match=field):
        parse_session(tomli_w.dumps(fields).encode(), "file")


def test_a_privacy_budget_goes_without_gradients_and_fedprox():
    fields = SESSION.model_dump(mode="json", exclude_none=True) | {
        "privacy": {"epsilon": 1.0},
        "topology": "coordinated",
    }
    for rule, update in (("fedprox", "parameters"), ("sgd", "gradients")):
        fields |= {"update": update}
        fields |= {"coordinated": {"coordinator": "0x" + "ab" * 20, "aggregation": {"rule": rule}}}
        with pytest.raises(SessionFileError, match=f"not with the rule {rule}"):
            parse_session(tomli_w.dumps(fields).encode(), "file")
