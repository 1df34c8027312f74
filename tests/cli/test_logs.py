import io
import json
import logging
import sys

import pytest

from node.causes import Cause, Tally
from node.cli.logs import JsonFormatter, TextFormatter, in_log_format, set_up_logging
from node.cli.result import fail, note

HOSTILE = "peer says \n2026-01-01 CRITICAL node: forged\x1b[2J"


def record(message="%s of %d", *arguments, **beside):
    made = logging.makeLogRecord({"name": "node.network", "levelno": logging.INFO, "levelname": "INFO", **beside})
    made.msg, made.args = message, arguments
    return made


def test_text_is_one_line_per_message_whatever_a_peer_says():
    (line,) = TextFormatter().format(record("%s", HOSTILE)).splitlines()
    assert "\\n2026-01-01 CRITICAL" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    "hostile", ["\n", "\r", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800"]
)
def test_what_would_steer_a_terminal_is_written_out(hostile):
    for line in (TextFormatter().format(record("a%sb é", hostile)), in_log_format(f"a{hostile}b é")):
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        assert line.endswith(f"a{hostile.encode('unicode_escape').decode()}b é")


def test_errors_and_notes_are_written_out_too(capsys):
    note("a\u202eb")
    with pytest.raises(SystemExit):
        fail("a\u202eb")
    assert capsys.readouterr().err == "a\\u202eb\nfl-node: a\\u202eb\n"


def test_json_is_one_object_per_line():
    line = JsonFormatter().format(record("%s", HOSTILE, created=0.25, msecs=250.0))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "node.network",
        "message": HOSTILE,
    }


def test_json_has_what_a_record_was_given_beside_its_message(caplog):
    with caplog.at_level(logging.INFO):
        Tally().count(Cause.BAD_REQUEST, "mallory", "garbage")
    (made,) = caplog.records
    said = json.loads(JsonFormatter().format(made))
    assert (said["cause"], said["peer"], said["count"]) == ("bad-request", "mallory", 1)
    assert "bad-request" in said["message"]


def test_json_keeps_tracebacks_and_what_is_no_json():
    try:
        raise ValueError("no")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info(), stream=io.BytesIO(), level="mine")
    said = json.loads(JsonFormatter().format(made))
    assert "ValueError: no" in said["exception"]
    assert "BytesIO" in said["stream"]
    assert said["level"] == "info"


@pytest.mark.parametrize(
    ("verbose", "level"), [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (9, logging.DEBUG)]
)
def test_it_is_quiet_unless_asked(monkeypatch, verbose, level):
    root = logging.RootLogger(logging.NOTSET)
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging.getLogger("web3"), "level", 0)
    assert in_log_format("listening") == "listening"
    set_up_logging(verbose, "json")
    assert json.loads(in_log_format("listening"))["message"] == "listening"
    assert root.level == level
    assert isinstance(root.handlers[0].formatter, JsonFormatter)
    assert logging.getLogger("web3").level == (logging.DEBUG if verbose > 1 else logging.CRITICAL)
