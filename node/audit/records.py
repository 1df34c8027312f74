"""What stands on the ledger in the audit's words: a recorded mix as a step to check, a broken chain as a fault."""

from ledger import BrokenChain
from ledger import Step as LedgerStep
from node.audit.replay import Fault, Step
from node.messages import Input, Mix
from node.storage import directory_cid


def broken_chain(error: BrokenChain) -> Fault:
    """A fault in the chain of records; of member −1 if it is nobody's or it can't be told whose."""
    member, round = -1 if error.member is None else error.member, error.round or 0
    if error.account and error.member is None:
        return Fault(member, round, "non-member", "records of members only", str(error))
    return Fault(member, round, "hash chain", "records that lead to the slot on the ledger", str(error))


def node_step(recorded: LedgerStep) -> Step:
    """A recorded mix in the node's words."""
    mix = recorded.mix
    assert mix is not None
    inputs = tuple(Input(entry.member, entry.weight, entry.lag) for entry in mix.inputs)
    snapshot = directory_cid(mix.snapshot) if mix.snapshot else None
    words = Mix(recorded.round, mix.members, inputs, mix.mixed_hash, snapshot, mix.epsilon)
    return Step(recorded.member, recorded.update_hash, words)
