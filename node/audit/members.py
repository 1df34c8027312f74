"""What convicts a member by its own signatures: a binding that is none, a key of two accounts, two updates."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ledger import MemberEntry
from ledger.members import doubled_keys
from node.audit.evidence import convicted_in
from node.audit.inputs import Note
from node.audit.replay import Fault, Step
from node.network.identity import peer_id_of


def check_identities(members: Sequence[MemberEntry]) -> Iterator[Fault]:
    """Faults of bindings; a libp2p key is one member."""
    doubled = doubled_keys(members)
    for member in members:
        if not member.bound:
            expected, found = "the libp2p key's signature of the account", "a signature that the key did not make"
            yield Fault(member.index, 0, "identity", expected, found)
        if member.index in doubled:
            found = f"that of member {doubled[member.index]}, which signed for both accounts"
            yield Fault(member.index, 0, "identity", "a libp2p key of its own", found)


def check_evidence(session_id: int, members: Sequence[MemberEntry], homes: Iterable[Path]) -> Iterator[Fault]:
    """Members of whom the homes keep signed evidence that they had two updates of a round."""
    of_peer = {peer_id_of(member.peer_key): member.index for member in reversed(members) if member.bound}
    for verdict in convicted_in(session_id, homes):
        member = of_peer.get(verdict.peer_id)
        if member is not None:
            yield Fault(member, verdict.round, "equivocation", "one update of the round", verdict.reason)


def excuse(step: Step, fault: Fault, equivocal: Iterable[tuple[int, int]]) -> Note | None:
    """Why a mix that is not that of the recorded updates may be honest all the same; None if it may not.

    Args:
        step: of who mixed.
        fault: what is wrong with it.
        equivocal: (member, round) of which there were two updates, as is proved.

    """
    if (fault.member, fault.round, fault.kind) != (step.member, step.round, "mixed parameters"):
        return None
    used = [(entry.member, step.round - entry.lag) for entry in step.mix.inputs if entry.weight]
    for member, round in used:
        if member != step.member and (member, round) in equivocal:
            text = f"member {member} showed two updates of round {round}: this mix is of the unrecorded one, or wrong"
            return Note(step.member, step.round, "equivocal input", text)
    return None
