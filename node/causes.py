"""Why something from outside was refused: a closed list of causes, and the one place where they are counted and logged.

Knows no network and no model. What each cause means stands beside it and, for operators, in docs/network.md.
"""

import logging
from collections import Counter
from enum import StrEnum

logger = logging.getLogger(__name__)

MAX_DETAIL = 300  # characters in a log line


class Cause(StrEnum):
    """A word for counters, status, metrics and log."""

    # Connections and streams
    ADDRESS_RATE = "address-rate"
    TOTAL_RATE = "total-rate"
    HANDSHAKE_PUSHED_OUT = "handshake-pushed-out"
    BAD_HANDSHAKE = "bad-handshake"
    STRANGER_LIMIT = "stranger-limit"
    BANNED_PEER = "banned-peer"
    UNKNOWN_FRAME = "unknown-frame"
    STREAM_ID = "stream-id"
    NO_STREAM = "no-stream"
    WINDOW = "window"
    UNREAD_BYTES = "unread-bytes"
    ANSWERS_UNREAD = "answers-unread"
    SILENT = "silent"
    SURPLUS_STREAM = "surplus-stream"
    HALF_OPEN_STREAM = "half-open-stream"
    ABANDONED_STREAM = "abandoned-stream"
    BROKEN_STREAM = "broken-stream"
    # The exchange, asked and asking
    STRANGER_ASKS = "stranger-asks"
    TOO_MANY_EXCHANGES = "too-many-exchanges"
    TOO_MANY_REQUESTS = "too-many-requests"
    BAD_REQUEST = "bad-request"
    EMPTY_REQUEST = "empty-request"
    TOO_SLOW = "too-slow"
    BUSY = "busy"
    BAD_REPLY = "bad-reply"
    WRONG_REPLY = "wrong-reply"
    WRONG_SIZE = "wrong-size"
    CORRUPT_PAYLOAD = "corrupt-payload"
    # Announcements and GossipSub
    STRANGER_GOSSIPS = "stranger-gossips"
    BAD_GOSSIP = "bad-gossip"
    FOREIGN_TOPIC = "foreign-topic"
    GOSSIP_CONTROL = "gossip-control"
    GOSSIP_SUBSCRIPTIONS = "gossip-subscriptions"
    ANNOUNCEMENT_FLOOD = "announcement-flood"
    BAD_ANNOUNCEMENT = "bad-announcement"
    FOREIGN_SESSION = "foreign-session"
    NOT_A_MEMBER = "not-a-member"
    TOO_LARGE = "too-large"
    TOO_OLD = "too-old"
    REPLAYED = "replayed"
    EQUIVOCATION = "equivocation"
    COPIED_UPDATE = "copied-update"
    REPEATED_UPDATE = "repeated-update"
    ANNOUNCEMENTS_NOT_COLLECTED = "announcements-not-collected"
    # Blocks
    TOO_MANY_BLOCK_STREAMS = "too-many-block-streams"
    OVERSIZED_BLOCK_MESSAGE = "oversized-block-message"
    BAD_BLOCK_MESSAGE = "bad-block-message"
    BAD_BLOCK = "bad-block"
    BAD_WANT = "bad-want"
    UNSOLICITED_BLOCK = "unsolicited-block"
    LATE_BLOCK = "late-block"
    TOO_MANY_WANTS = "too-many-wants"
    # Trackers, the directory, relays
    BAD_TRACKER_ANSWER = "bad-tracker-answer"
    BAD_TRACKER_MESSAGE = "bad-tracker-message"
    TRACKER_FLOOD = "tracker-flood"
    TRACKER_FULL = "tracker-full"
    BAD_REGISTRATION = "bad-registration"
    BAD_NAMESPACE = "bad-namespace"
    BAD_COOKIE = "bad-cookie"
    BAD_DIRECTORY_MESSAGE = "bad-directory-message"
    BAD_DIRECTORY_ANSWER = "bad-directory-answer"
    DIRECTORY_FLOOD = "directory-flood"
    BAD_RELAY_MESSAGE = "bad-relay-message"
    RELAY_FULL = "relay-full"
    NO_RESERVATION = "no-reservation"
    RELAY_TARGET_SILENT = "relay-target-silent"
    HOLE_PUNCH_REFUSED = "hole-punch-refused"
    # The page of metrics
    BAD_METRICS_REQUEST = "bad-metrics-request"
    # Payloads that hash to what was announced, and are no update
    UPDATE_HEADER = "update-header"
    UPDATE_DTYPE = "update-dtype"
    UPDATE_SHAPE = "update-shape"
    UPDATE_LENGTH = "update-length"
    UPDATE_NOT_FINITE = "update-not-finite"
    UPDATE_OUT_OF_RANGE = "update-out-of-range"
    UPDATE_BOMB = "update-bomb"
    UPDATE_NOT_PACKED = "update-not-packed"
    UPDATE_NUMBERS = "update-numbers"
    UPDATE_REFERENCE = "update-reference"
    UPDATE_MALFORMED = "update-malformed"


class Tally:
    """How often each cause was met; a log line at 1, 2, 4, 8, … of each, since a flood must not flood the log."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, cause: Cause, peer: str = "", detail: object = "") -> None:
        """Counts one more; `peer` is who did it, as far as that is known, `detail` what exactly."""
        self.counts[cause] += 1
        count = self.counts[cause]
        if count & (count - 1):
            return
        who = f", peer {peer}" if peer else ""
        what = f": {str(detail)[:MAX_DETAIL]}" if detail else ""
        fields = {"cause": str(cause), "peer": peer, "count": count}
        logger.info("refused (%s%s, %d so far)%s", cause, who, count, what, extra=fields)

    def by_cause(self) -> dict[str, float]:
        """Every cause there is with its count, for metrics: a counter that is missing cannot be watched."""
        return {str(cause): float(self.counts[cause]) for cause in Cause}
