"""How the log looks: a line of text or a JSON object per record, on standard error. Quiet unless asked for more."""

import json
import logging
import sys
import time
from typing import Any

FORMATS = ("text", "json")
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
LIBRARIES = ("web3", "urllib3", "zeroconf", "matplotlib", "trio", "multiaddr")
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({})))


class TextFormatter(logging.Formatter):
    """One line per message, whatever a peer put into it: what would steer a terminal is written out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """The line, without the traceback that may follow it."""
        return visible(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """A JSON object per line: `time` (UTC), `level`, `logger`, `message`, what the record was given beside (`cause`,
    `peer`, …), and `exception`, a traceback, where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        beside = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        said = {**beside, **said}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def in_log_format(message: str) -> str:
    """A line of the program's own for standard error: an object too where the log consists of them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            return handler.format(logging.makeLogRecord({"name": "fl-node", "levelname": "INFO", "msg": message}))
    return visible(message)


def visible(text: str) -> str:
    """The text on one line, with what is not printable written out: controls, line ends, changes of direction."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def set_up_logging(verbose: int, form: str = "text") -> None:
    """Logs go to standard error, quiet by default; libraries stay quiet until `-vv` (libp2p: see hardening.py)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=LEVELS[min(verbose, 2)], handlers=[handler])
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL)
