"""Slots are asked for by block number: a reorganisation between events and slots accuses nobody."""

import pytest

from ledger.errors import BrokenChain, HistoryError
from ledger.replay import verify
from ledger.values import MemberEntry


class TwoHeads:
    """A store whose slots change once, when it is read again; `stands` says that its block was not undone."""

    lasting = False

    def __init__(self, undone):
        self.last, self.undone, self.readings, self.forgotten = 700, undone, 0, []

    def stands(self):
        return not self.undone or self.readings > 0

    def forget(self, first):
        self.forgotten.append(first)

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
    monkeypatch.setattr("ledger.replay.member_count", lambda _store: 1)
    monkeypatch.setattr("ledger.replay._PAUSES", (0.0, 0.0))
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
def test_events_that_a_node_did_not_have_yet_are_read_again_before_anybody_is_convicted(member):
    store = TwoHeads(undone=False)
    assert verify(store, lambda: [member], store.follow) == 1
    assert store.forgotten == [700 - 64 + 1]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(("lasting", "last"), [(False, 637), (True, 0)])
def test_slots_that_stay_others_break_the_chain(lasting, last, member, monkeypatch):
    store = TwoHeads(undone=False)
    store.lasting = lasting
    monkeypatch.setattr("ledger.replay.slots", lambda _store, _members: {member.account: 99})
    with pytest.raises(BrokenChain):
        verify(store, lambda: [member], store.follow)
    assert store.forgotten == [637, last]


@pytest.mark.usefixtures("told")
def test_members_that_are_not_told_of_are_missed(member, monkeypatch):
    store = TwoHeads(undone=False)
    monkeypatch.setattr("ledger.replay.member_count", lambda _store: 2)
    with pytest.raises(HistoryError, match="tell of 1 members, the contract of 2, as of block 700"):
        verify(store, lambda: [member], store.follow)
