"""The tree of errors that a user or a caller of the node can meet; knows nothing of how they are shown.

    NodeError                what was wrong, the value, and the cure, in one line; exit status 2
    ├── ConfigError          a flag, an environment variable or a settings file
    ├── SessionFileError     a session file that is malformed, altered or of another session
    ├── HomeError            a home directory that is missing, in use or of another session
    ├── IdentityError        a libp2p key file that cannot be used
    ├── TaskError            a task that fails to import or does not fit the session
    ├── SessionOver          what no restart mends: the session ends for everybody, with this reason
    ├── DataError            a data set that is missing or corrupt
    ├── UpdateError          a payload whose bytes, shapes or numbers are not what was promised
    ├── NetworkError         our own side of the network: address, port
    │   └── PeerError        a peer's fault: it never ends the node
    │       └── AnnouncementError  an announcement that others, or its own bytes, contradict
    ├── ProgramError         a mistake in this program, met where its exit status must not be taken for an answer
    └── StorageError         IPFS: the daemon, the embedded store
        ├── ContentMissing   a CID that nobody here can produce
        └── ContentMalformed a CID whose blocks are not what their author had to write

The ledger has a tree of its own (`ledger.errors.LedgerError`), since it knows nothing of the node.
"""

from node.causes import Cause


class NodeError(Exception):
    """Says in one line what was wrong, the offending value, and the cure."""


class ConfigError(NodeError):
    """A flag, an environment variable or a settings file is wrong."""


class SessionFileError(NodeError):
    """A session file is malformed, altered or belongs to another session."""


class HomeError(NodeError):
    """A home directory is missing, in use by a running node, or of another session."""


class IdentityError(NodeError):
    """A libp2p key file cannot be used."""


class TaskError(NodeError):
    """A task fails to import or does not fit the session."""


class SessionOver(NodeError):
    """No restart mends it: the coordinator ends the session for everybody, with this reason."""


class DataError(NodeError):
    """A data set is missing or corrupt."""


class UpdateError(NodeError):
    """A payload's bytes, shapes or numbers are not what was promised; `cause` says which, for counters."""

    def __init__(self, message: str, cause: Cause = Cause.UPDATE_MALFORMED) -> None:
        super().__init__(message)
        self.cause = cause


class NetworkError(NodeError):
    """Our own side of the network cannot do what was asked (address, port)."""


class PeerError(NetworkError):
    """A peer is unreachable, too slow, or broke the protocol. Never ends the node."""


class AnnouncementError(PeerError):
    """What was announced is not to be had as announced: asking again will not help."""


class StorageError(NodeError):
    """IPFS, the daemon's or the embedded store's, cannot do what was asked."""


class ContentMissing(StorageError):
    """Nobody who was asked has the content of a CID."""


class ContentMalformed(StorageError):
    """Blocks that match their CID, and are none of what its author had to write: proof against whoever named it."""


class ProgramError(NodeError):
    """A mistake in this program, not in what it was given."""
