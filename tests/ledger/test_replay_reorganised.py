"""Slots are asked for by block number: a reorganisation between events and slots accuses nobody."""

import pytest

from ledger.errors import BrokenChain
from ledger.replay import verify
from ledger.values import MemberEntry


class TwoHeads:
    """A store whose slots change once, when it is read again; `stands` says that its block was undone."""

    def __init__(self, undone):
        self.last, self.undone, self.readings = 7, undone, 0

    def stands(self):
        return not self.undone or self.readings > 0

    def follow(self):
        self.readings += 1
        return self.last


@pytest.fixture
def member():
    return MemberEntry(0, "0x" + "1" * 40, b"", b"", (), True, "active", 1, True)


@pytest.fixture
def told(monkeypatch, member):
    """What events and slots say of the member before and after the store is read again."""
    monkeypatch.setattr("ledger.replay.replay", lambda store, _members: ({member.account: 5 + store.readings}, 1))
    monkeypatch.setattr("ledger.replay.slots", lambda _store, _members: {member.account: 6})

    def accuse(_store, _member, computed, found):
        if computed != found:
            raise BrokenChain("broken", member.account, 0, 1)

    monkeypatch.setattr("ledger.replay._compare", accuse)


@pytest.mark.usefixtures("told")
def test_slots_of_a_block_that_was_undone_are_asked_for_again(member):
    store = TwoHeads(undone=True)
    assert verify(store, lambda: [member], store.follow) == 1
    assert store.readings == 1


@pytest.mark.usefixtures("told")
def test_slots_of_a_block_that_stands_break_the_chain(member):
    store = TwoHeads(undone=False)
    with pytest.raises(BrokenChain):
        verify(store, lambda: [member], store.follow)
