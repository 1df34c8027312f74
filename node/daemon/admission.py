"""What an account may be in its session, and its seat among the members on the ledger."""

from collections.abc import Sequence
from typing import Protocol

from eth_account.signers.local import LocalAccount

from ledger import MemberEntry, Membership, binding_message
from node.agreement import OpenSession
from node.daemon.directory import LedgerDirectory, seats_of
from node.daemon.settings import StartSettings
from node.errors import ConfigError, HomeError, SessionFileError
from node.home import Home
from node.learning.task import Learner
from node.network.identity import Identity
from node.simulation.attacks import require_attack


class Joined(Protocol):
    """Who joined, as far as its place goes."""

    @property
    def account(self) -> str:
        """Its Ethereum account."""

    @property
    def active(self) -> bool:
        """Whether it has neither left nor been removed."""


def is_named_coordinator(opened: OpenSession, account: str) -> bool:
    """Whether an account is the coordinator that its session's file names."""
    coordinated = opened.session.coordinated
    return coordinated is not None and coordinated.coordinator.lower() == account.lower()


def require_experiment(opened: OpenSession, learner: Learner, attack: str) -> None:
    """Raises ConfigError unless the session is an experiment, and the attack one that there is."""
    if not opened.session.experiment:
        raise ConfigError(
            f"--misbehave {attack} is refused: session {opened.session.name} is no experiment "
            "(its creator says so with `fl-node session create --experiment`)"
        )
    require_attack(attack, learner.task)


def require_updates(opened: OpenSession, account: str, attack: str) -> None:
    """Raises ConfigError if the account coordinates the session: a coordinator sends no updates to forge."""
    if is_named_coordinator(opened, account):
        raise ConfigError(
            f"--misbehave {attack}: account {account} coordinates session {opened.session.name} and sends no updates: "
            "misbehave as a worker"
        )


def require_role(opened: OpenSession, account: str, role: str | None) -> None:
    """Raises ConfigError if the session has another role for this account than the operator thinks."""
    if role is None:
        return
    name, coordinated = opened.session.name, opened.session.coordinated
    if coordinated is None:
        raise ConfigError(f"--role {role}: {name} is a gossip session, in which all are equal: leave --role out")
    mine = "coordinator" if is_named_coordinator(opened, account) else "worker"
    if mine != role:
        raise ConfigError(
            f"--role {role}: account {account} is a {mine} of session {name}, whose coordinator is "
            f"{coordinated.coordinator}: use that account's --home"
        )


def require_throttle(opened: OpenSession, throttle_s: float) -> None:
    """Raises ConfigError for a slow machine in a gossip session, whose training steps are never made longer."""
    if throttle_s and opened.session.coordinated is None:
        raise ConfigError(
            f"--throttle {throttle_s:g}: {opened.session.name} is a gossip session, which takes no notice of it: "
            "leave it out"
        )


def require_room(opened: OpenSession, account: str) -> None:
    """Raises SessionFileError if the session has as many workers as it takes, and this account is none of them."""
    coordinated = opened.session.coordinated
    if coordinated is None or opened.entry.member_count < coordinated.maximum:
        return
    require_place(opened, account, opened.ledger.members(opened.session_id))


def require_place(opened: OpenSession, account: str, members: Sequence[Joined]) -> None:
    """Raises SessionFileError if the account is no worker that counts; `members` are in the order of joining.

    It is asked again after joining: of several that join at once for the last place, the first on the ledger has it.
    Who has left keeps its place (docs/protocol.md, section 9).
    """
    coordinated = opened.session.coordinated
    if coordinated is None or is_named_coordinator(opened, account):
        return
    joined = [each for each in members if each.account.lower() != coordinated.coordinator.lower()]
    placed = joined[: coordinated.maximum]
    if len(joined) >= coordinated.maximum and account.lower() not in {each.account.lower() for each in placed}:
        left = sum(not each.active for each in placed)
        gone = f" ({left} of them gone, whose places stay taken)"
        back = ", or one that left to come back (fl-node session rejoin)"
        raise SessionFileError(
            f"session {opened.session.name} has {len(joined)} workers{gone if left else ''} and takes at most "
            f"{coordinated.maximum}, of whom account {account} is none: ask its creator for a session with more places"
            f"{back if left else ''}"
        )


def worker_number(opened: OpenSession, index: int) -> int:
    """Which share of a common data set is a member's: the coordinator, which does not train, takes none away."""
    coordinated = opened.session.coordinated
    if coordinated is None:
        return index
    members = opened.ledger.members(opened.session_id)
    return place_of(coordinated.coordinator, [member.account for member in members], index)


def place_of(coordinator: str, accounts: Sequence[str], index: int) -> int:
    """The number of a member among the workers; `accounts` are the members' in the order of joining."""
    return index - int(coordinator.lower() in (account.lower() for account in accounts[:index]))


def join_session(opened: OpenSession, identity: Identity, account: LocalAccount) -> None:
    """Makes the account a member, bound to the libp2p key. LedgerError if it is one, or may not be."""
    ledger, session_id = opened.ledger, opened.session_id
    message = binding_message(opened.session.ledger.chain_id, ledger.address, session_id, account.address)
    ledger.join(account, session_id, Membership(identity.public_key, identity.sign(message)))


def take_seat(
    settings: StartSettings, opened: OpenSession, identity: Identity, account: LocalAccount
) -> LedgerDirectory:
    """The member list with this node in it: joins the session if it has not joined before."""
    ledger, session_id = opened.ledger, opened.session_id
    members = ledger.members(session_id)
    mine = next((m for m in members if m.account == account.address), None)
    if mine is None:
        _require_own_key(members, identity, settings.home)
        join_session(opened, identity, account)
        members = ledger.members(session_id)
        mine = next(m for m in members if m.account == account.address)
    if mine.peer_key != identity.public_key:
        raise HomeError(
            f"account {account.address} joined session {session_id:016x} with another libp2p key: "
            f"restore its {settings.home.identity.name}, or join with another account (fl-node init)"
        )
    if not mine.active:
        raise SessionFileError(f"account {account.address} {mine.standing} session {session_id:016x}: ask its creator")
    return LedgerDirectory(mine.index, seats_of(members))


def _require_own_key(members: Sequence[MemberEntry], identity: Identity, home: Home) -> None:
    """A second account with one key would have no rights, and the audit would convict it."""
    other = next((m for m in members if m.bound and m.peer_key == identity.public_key), None)
    if other is not None:
        raise HomeError(
            f"the libp2p key {home.identity} is bound to account {other.account}, member {other.index}: "
            f"restore that account's {home.keystore.name}, or join with another home (fl-node init)"
        )
